"""Activations and their averages over correlated Gaussians: closed forms where they exist, quadrature with an error elsewhere."""

from linkern.activations.activation import Activation, ActivationLike, Averages, Dual, Elementwise
from linkern.activations.catalogue import from_function, get, leaky_relu, names, polynomial, relu_power

__all__ = [
    "Activation",
    "ActivationLike",
    "Averages",
    "Dual",
    "Elementwise",
    "from_function",
    "get",
    "leaky_relu",
    "names",
    "polynomial",
    "relu_power",
]
