"""python -m jobs.metrics: measure any method's fused pictures."""
