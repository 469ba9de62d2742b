"""Complete jobs, called from the command line and from Python: recipe, data, network, loop and run directory."""
