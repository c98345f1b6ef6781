"""The evaluators, one a file."""
