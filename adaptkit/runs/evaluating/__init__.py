"""Finished runs on other rows, and runs that follow them."""
