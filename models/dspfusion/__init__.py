"""DSPFusion: degradation-aware fusion with a diffusion-restored semantic prior."""
