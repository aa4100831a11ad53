"""The operators that a cluster needs, the providers, and what all Kubernetes objects of a stack share."""
