"""The part of the Slurm launcher that runs in a job, on its node."""
