"""Ratios against plain references: interleaved in one process, one thread, CPU time."""
