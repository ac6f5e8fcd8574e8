"""python -m jobs.generate: make a dataset version."""
