"""The stack file: types, rules, errors, reading. Needs neither Pulumi nor a cluster."""
