"""What the cluster shows, asked beside Pulumi: preflights, the cache's state, how rollouts go, and why they fail."""
