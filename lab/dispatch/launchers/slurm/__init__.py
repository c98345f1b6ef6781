"""The Slurm launcher: sending jobs, checking the cluster's limits, running a job on its node, and reading the queue."""
