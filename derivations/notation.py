"""The symbols that all derivations share; `linkern.conventions` maps them to the words used at the API."""

import sympy as sp

from linkern.symbolic.layers import Layered, depth, layer

__all__ = [
    "A",
    "L",
    "T",
    "a",
    "c",
    "c_hat",
    "g",
    "gamma0",
    "k",
    "l",
    "lam",
    "n",
    "prior",
    "prior_readout",
    "s",
    "width",
]

l, L = layer, depth

gamma0 = sp.Symbol("gamma0", positive=True)  # feature-learning strength
g = sp.Symbol("g", positive=True)  # gamma0**2
T = sp.Symbol("T", positive=True)  # temperature 1/beta; beta = inf is the limit T -> 0

c = Layered("c", start=1)  # overlap of the feature kernel with the labels, c_0 = 1 for whitened data
c_hat = Layered("c_hat", latex=r"\hat c", positive=False)  # overlap of the dual kernel
a = sp.Symbol("a", positive=True)  # conserved charge per layer, -c_l c_hat_l
A = sp.Symbol("A", positive=True)  # conserved charge with unequal widths, -n_l c_l c_hat_l

prior = Layered("g")  # prior variance of the weights below layer l
width = Layered("n")  # width of layer l in units of N
prior_readout = sp.Symbol("g_w", positive=True)

k = sp.Symbol("k", positive=True)  # rescaling of the kernel, k = c_L for whitened data
lam = sp.Symbol("lam", positive=True)  # eigenvalue of the data kernel
n = sp.Symbol("n", positive=True)  # width of one layer
s = sp.Symbol("s", positive=True)  # saturation k * lam / T
