"""Models that write images as codes and restore them; some draw new codes too."""
