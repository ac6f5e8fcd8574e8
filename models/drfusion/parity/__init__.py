"""DRFusion against golden vectors of the authors' code."""
