"""Where a machine goes. Pure: values in, a decision with its reasons out."""
