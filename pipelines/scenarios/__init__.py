"""What the two cameras suffer: scenarios by name, the degraded pair of a scene, and the hints of it."""
