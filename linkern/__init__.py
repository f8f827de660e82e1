"""linkern: deep linear networks, adaptive kernels and perturbation theory, derived, proven and solved."""

from pathlib import Path

__version__ = "0.1.0"

# A wheel has derivations/ and figures/ inside the package; a checkout has them beside it and must find them there, also when
# Python starts in its top folder and so prefers the checkout to what is installed.
_checkout = Path(__file__).parents[1]
if (_checkout / "derivations" / "notation.py").exists():
    __path__.append(str(_checkout))
