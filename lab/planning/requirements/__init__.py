"""What the runs of a plan require, checked before anything runs, and what this machine can't check."""
