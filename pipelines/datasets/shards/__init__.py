"""One shard: its samples, its marker, how it is written and read."""
