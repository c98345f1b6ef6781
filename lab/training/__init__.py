"""Train one run: record its curves, write checkpoints, and resume after an interruption with the same result."""

from lab.training import lean

lean.install()
