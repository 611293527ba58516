"""Ways through the latents of a generative model."""
