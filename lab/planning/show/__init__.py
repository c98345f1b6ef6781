"""A plan for a person to read before anything runs, or as JSON for a program."""
