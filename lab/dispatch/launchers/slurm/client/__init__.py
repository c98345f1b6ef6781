"""Slurm's commands and what the cluster is, as types."""
