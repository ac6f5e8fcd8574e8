"""Detectors and labelled boxes: what fused pictures are worth to a program that looks for things."""
