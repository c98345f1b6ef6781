"""Files of a sweep's folder, each as a typed record: its plan, and what was submitted to Slurm."""
