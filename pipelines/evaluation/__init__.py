"""Methods measured under scenarios."""
