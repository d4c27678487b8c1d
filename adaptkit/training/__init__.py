"""The loop around an Adaptation, and what predicts with it."""
