"""The rehearsal: a real Pulumi engine and Kubernetes control plane on one machine. Nothing outside imports it."""
