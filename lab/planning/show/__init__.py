"""A plan as text for a reader before anything runs, or as JSON for a program."""
