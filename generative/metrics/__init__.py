"""How good generated and restored images are, measured without a download."""
