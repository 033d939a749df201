"""Data sets: read them, decode them, find duplicates, split them without leaks."""
