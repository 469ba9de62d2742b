"""Data: from files and public data sets to batches of augmented images."""
