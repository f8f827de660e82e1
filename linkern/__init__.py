"""linkern: deep linear networks, adaptive kernels and perturbation theory, derived, proven and solved."""

__version__ = "0.1.0"
