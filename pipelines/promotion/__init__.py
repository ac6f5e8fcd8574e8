"""The gate, its evidence, and the way back to the sources."""
