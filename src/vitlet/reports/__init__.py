"""HTML pages of results, drawn from the files of run directories alone."""
