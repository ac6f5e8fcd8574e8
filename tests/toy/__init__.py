"""A system of a few lines, which goes the whole way through the real commands (test_toy.py)."""
