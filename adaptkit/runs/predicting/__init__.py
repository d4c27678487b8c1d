"""What a finished run answers: to rows in memory, and in files of answers."""
