"""Files on disk, files of the package, and the model hub."""
