"""Rows: read from files or the hub, their ids, samples and groups."""
