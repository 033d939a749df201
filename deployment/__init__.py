"""Brings an image into service. Standard library alone: it runs where no environment is."""
