"""Self-diffusion: coefficient with error bars, and the force error that it allows."""
