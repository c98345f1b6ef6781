"""The evaluators, one per file."""
