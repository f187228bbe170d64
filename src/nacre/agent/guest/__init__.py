"""What is done with the inside of guests: what they start with, and the agent that runs in them."""
