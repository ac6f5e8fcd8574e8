"""Source pictures: layouts, scenes, decoding, leaks between splits."""
