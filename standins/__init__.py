"""What the rehearsal simulates because it cannot have it: vLLM on GPUs, Fluid, a gateway's data plane, hubs, clouds."""
