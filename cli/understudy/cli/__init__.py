"""The command line, the demo and the simulator: puts the rooms together."""
