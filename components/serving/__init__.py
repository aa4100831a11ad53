"""The serving workloads and how clients reach them."""
