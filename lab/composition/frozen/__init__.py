"""Frozen configurations of composed experiments: write, read, identify and amend them."""
