"""python -m jobs.scan: index registered IR/VI pairs."""
