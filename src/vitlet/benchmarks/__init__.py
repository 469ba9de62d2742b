"""Speed ratios to plain reference code: interleaved in one process, on one thread, in CPU time."""
