"""Reads the cluster besides Pulumi: preflights, the cache's state, the progress of rollouts, and why they fail."""
