"""Forms: how tasks are put to models. One file each."""
