"""What scripts/pretrain_mini.py is made of."""
