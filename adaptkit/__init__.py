"""Adapt a pretrained language model to a task with any published adaptation method."""

__version__ = "0.1.0"
