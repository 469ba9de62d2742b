"""One file a method: mathematics and its own state, nothing of devices, files or optimizers."""
