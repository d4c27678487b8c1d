"""What the user sees: progress bars, lines, tables and errors."""
