"""Component resources, one a file: frozen Args, pure manifest functions, the component. They read no config."""
