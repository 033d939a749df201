"""Synthetic photos of traffic signs, rendered from vector templates."""
