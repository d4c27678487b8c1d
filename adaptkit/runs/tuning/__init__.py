"""Settings chosen by a race, and methods compared at an equal budget."""
