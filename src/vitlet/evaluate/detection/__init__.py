"""What a detector finds, and how much of it is right."""
