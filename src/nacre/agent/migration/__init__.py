"""Machines on their way between two agents: connections, and what flows through them. Decides nothing."""
