"""One file per method: its mathematics and state, free of devices, files and optimizers."""
