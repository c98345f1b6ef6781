"""Launchers: the places where runs run, such as this machine or a SLURM cluster."""
