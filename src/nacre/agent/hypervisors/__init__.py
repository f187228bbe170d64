"""Hypervisor drivers. To add one: a folder here, a line in `registry.py`, and the contract suite."""
