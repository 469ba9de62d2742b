"""Measurements of a finished encoder: features, probes, accuracy, and the comparisons that interpret them."""
