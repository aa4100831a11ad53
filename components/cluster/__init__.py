"""The operators a cluster needs, the providers, and what every Kubernetes object of a stack has in common."""
