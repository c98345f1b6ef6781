"""Composed experiments as frozen configurations: written, read back, identified, amended."""
