"""DSPFusion against golden vectors of the published networks."""
