"""python -m jobs.demo: every step once, small."""
