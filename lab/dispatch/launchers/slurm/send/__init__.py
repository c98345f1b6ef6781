"""Sending runs to Slurm: settings, batch scripts, arrays, and the journal of submissions."""
