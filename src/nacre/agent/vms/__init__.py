"""Recipes: how a machine is started, stopped, paused, reset, deleted and found again on this host."""
