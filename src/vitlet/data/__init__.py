"""Where images come from and what they become on their way to a batch."""
