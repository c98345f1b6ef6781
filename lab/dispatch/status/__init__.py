"""The status of runs, from their folders and from launchers."""
