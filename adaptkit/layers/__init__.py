"""Torch modules with the formulas; the methods decide where they go and which tensors train."""
