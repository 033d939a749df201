"""Measurements behind the numbers that README.md and docs/ state."""
