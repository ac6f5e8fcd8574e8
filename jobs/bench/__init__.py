"""python -m jobs.bench: measurements, as ratios in one run."""
