"""Slurm's commands, and the cluster as they describe it."""
