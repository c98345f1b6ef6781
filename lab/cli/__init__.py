"""The `lab` command: one short file for each subcommand. Heavy imports happen inside functions."""

COMPLETION_VARIABLE = "_LAB_COMPLETE"
"""The environment variable with which a shell asks for completions."""
