"""Blocks of which restoration transformers are made."""
