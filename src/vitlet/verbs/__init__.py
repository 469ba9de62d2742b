"""The commands of the CLI: each parses its arguments, refuses what it can, and calls the job of the same name."""
