"""Whole jobs: recipe, data, network, loop and run directory put together. What the command line and Python call."""
