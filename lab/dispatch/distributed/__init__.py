"""Trains one run in several processes that srun started. If one process ends, the others end too."""
