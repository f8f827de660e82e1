"""Gradient flow: tests against formulas typed in again, other algorithms, and networks."""
