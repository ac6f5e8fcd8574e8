"""Source pictures: layouts, scenes and their index, decoding."""
