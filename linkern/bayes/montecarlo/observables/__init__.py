"""What is read off a solution, whatever found it: kernels, predictions, densities, and their errors."""
