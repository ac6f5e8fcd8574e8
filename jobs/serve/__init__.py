"""python -m jobs.serve: fuse pictures that come by HTTP."""
