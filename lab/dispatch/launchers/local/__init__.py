"""Runs on this machine: a pool of worker processes."""
