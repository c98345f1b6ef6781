"""The `lab` command: one short file for each subcommand. Heavy imports happen inside functions."""
