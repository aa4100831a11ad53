"""Facts and arithmetic about serving a model. Pure: imports no Pulumi, reads nothing but its own catalog."""
