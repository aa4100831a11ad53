"""Stand-ins for Pulumi resource plugins, for machines without the official ones."""
