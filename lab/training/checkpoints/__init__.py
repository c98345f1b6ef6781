"""Checkpoint files: atomic, verified, read and written by Lightning."""
