"""The agent: one per node. Makes the desired state true on its host and reports what is. Dials out only."""
