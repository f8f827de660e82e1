"""Tests of the finite-width reference (a package, so that they can share the theory typed in reference.py)."""
