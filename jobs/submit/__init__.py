"""python -m jobs.submit: hand a command to a cluster."""
