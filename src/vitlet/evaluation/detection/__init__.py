"""Detections on images, and how many of them are right."""
