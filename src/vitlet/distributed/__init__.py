"""The ranks of a job under torchrun: one world, its heartbeat, and batches that are spread over it."""
