"""What the rehearsal plays because it cannot be had: vLLM on GPUs, Fluid, a gateway's data plane, hubs and clouds."""
