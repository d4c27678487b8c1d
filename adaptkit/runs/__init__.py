"""One run: planned, carried out, kept, checked and taken further."""
