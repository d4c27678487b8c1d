"""Many finished runs as one answer: which method is better, by how much, at what cost. No torch."""
