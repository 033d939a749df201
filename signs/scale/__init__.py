"""Sweeps and bulk prediction on one machine or a Ray cluster."""
