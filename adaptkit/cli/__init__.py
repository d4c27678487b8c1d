"""The `adaptkit` command. No torch here."""
