"""SLURM as a launcher: what is sent, what the cluster allows, what a job does, and what the queue says of a run."""
