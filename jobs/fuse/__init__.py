"""python -m jobs.fuse: fuse a pair, or folders of pairs."""
