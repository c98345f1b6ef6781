"""The `lab` command: one thin file a command, everything heavy imported inside."""
