"""Where runs run: this machine, or a SLURM cluster."""
