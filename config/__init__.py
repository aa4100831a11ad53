"""The stack file: its types and rules, what is wrong in it, and how it is read. Needs neither Pulumi nor a cluster."""
