"""Tells the people who decide on a Pulumi run what it will do, does or finds. Imports no Pulumi."""
