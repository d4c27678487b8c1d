"""Runs for other libraries, and adapters of other libraries as runs."""
