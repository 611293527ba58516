"""Images of two domains, for models that translate between them."""
