"""From scenes to shards to versions."""
