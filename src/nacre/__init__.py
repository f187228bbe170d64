"""Nacre: a self-hosted private cloud."""
