"""Image kernels: draw parameters, apply them, record them."""
