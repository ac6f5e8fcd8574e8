"""python -m jobs.promote: move the champion alias, if the gate lets it pass."""
