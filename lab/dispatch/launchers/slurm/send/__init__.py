"""Sending runs to Slurm: settings, batch scripts, arrays, the journal of what was sent."""
