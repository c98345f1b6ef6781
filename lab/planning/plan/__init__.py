"""Plans: building them, the runs they hold, and their files."""
