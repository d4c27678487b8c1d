"""Benchmarks: `adaptkit train` against other ways of doing the same work."""
