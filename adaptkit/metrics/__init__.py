"""Metrics as `evaluate` modules that load with no network."""
