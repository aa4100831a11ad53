"""Stand-ins for Pulumi resource plugins, for machines that do not have the official ones."""
