"""Storage of weights, copying weights into it, and how the engine's pods read them."""
