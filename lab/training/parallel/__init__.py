"""Training one run in several processes."""
