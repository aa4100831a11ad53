"""The rehearsal: a real Pulumi engine and a real Kubernetes control plane on one machine. Nothing outside imports it."""
