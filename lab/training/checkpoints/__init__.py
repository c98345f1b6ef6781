"""Atomic, verified checkpoint files, which Lightning reads and writes."""
