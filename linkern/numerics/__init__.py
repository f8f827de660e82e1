"""Numerical tools that every solver shares."""
