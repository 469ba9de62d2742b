"""The page: what was found, drawn from the files of run directories and from nothing else."""
