"""Numbers about a finished encoder: features, probes, accuracy, and the comparison that says what they mean."""
