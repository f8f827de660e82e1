"""NumPy modules written by `python -m linkern.derivations`; never edited by hand."""
