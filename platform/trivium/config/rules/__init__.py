"""One rule for each keyword: what values it may have, stated by its annotation in the signature."""
