"""Commands that start, watch, stop and retry runs."""
