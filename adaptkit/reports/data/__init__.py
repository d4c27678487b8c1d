"""Data diagnosis: what is in a task's rows, as its model would read them."""
