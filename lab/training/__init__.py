"""One run: an experiment trained to its budget, recorded, checkpointed, and resumed as if it had never stopped."""

from lab.training import lean

lean.install()
