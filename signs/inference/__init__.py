"""Predict with an exported classifier: no TensorFlow."""
