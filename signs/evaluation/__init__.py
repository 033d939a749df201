"""Measure a classifier: accuracy, calibration, OOD rejection, robustness."""
