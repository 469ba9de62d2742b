"""The one training loop, and the parts behind its guarantees: schedules, checkpoints, signals, finite numbers, logs."""
