"""Images on this host."""
