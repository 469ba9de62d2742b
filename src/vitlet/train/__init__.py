"""The one loop, and what keeps its promises: schedules, checkpoints, signals, finite numbers, logs."""
