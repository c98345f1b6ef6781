"""Panels to check the answer by: whether arms are comparable, failures, the runs, and how to run them again."""
