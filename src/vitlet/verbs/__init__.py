"""The verbs of the command line: each reads its words, refuses what it can, and calls the job of the same name."""
