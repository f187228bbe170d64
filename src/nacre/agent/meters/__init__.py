"""What machines use while they run: sampled on the node, kept there for two weeks, shown on request."""
