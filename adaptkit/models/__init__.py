"""Pretrained models: where their parts are (anatomy) and how they are loaded."""
