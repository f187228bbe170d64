"""The control plane: holds what users want, decides where, and tells the agents."""
