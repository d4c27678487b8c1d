"""Torch modules with the formulas; the methods decide where they are put and what learns."""
