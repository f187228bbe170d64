"""What should be against what is, one file per noun. They move intent and facts, and never talk to an agent."""
