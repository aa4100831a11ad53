"""Where weights are kept, how they get there, and how the engine's pods read them."""
