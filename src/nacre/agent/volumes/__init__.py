"""Volumes on this node: their records, their pools, and one step at a time toward what is wanted of each."""
