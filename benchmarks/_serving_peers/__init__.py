"""Other servers around the same index, tables and encoder; each runs in an environment of its own."""
