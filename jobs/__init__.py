"""Decisions: one thin file per command, and the recipes."""
