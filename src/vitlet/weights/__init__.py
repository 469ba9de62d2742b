"""Weights on their way in and out."""
