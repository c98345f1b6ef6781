"""Plans: how they are built, the runs that they hold, and their files."""
