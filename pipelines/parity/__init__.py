"""Golden vectors."""
