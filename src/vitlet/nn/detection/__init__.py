"""The parts of a detector on a plain ViT."""
