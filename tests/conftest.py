"""Tests side by side (`pytest -n auto`) share the cores."""

import os

# Before NumPy is imported: threads of BLAS that wait for those of another worker make the tests a third slower (measured).
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
