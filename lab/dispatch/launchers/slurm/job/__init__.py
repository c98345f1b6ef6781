"""What a Slurm job does on its node."""
