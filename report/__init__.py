"""What a run of Pulumi will do, does or finds, told to the people who decide on it. Imports no Pulumi."""
