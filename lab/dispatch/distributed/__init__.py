"""One run trained by several processes that srun started: how they meet, and how none is left behind when one goes."""
