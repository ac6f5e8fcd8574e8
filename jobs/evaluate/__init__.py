"""python -m jobs.evaluate: measure a model under degradations, on Ray."""
