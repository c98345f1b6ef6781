"""Panels for checking the answer: whether the arms are comparable, failures, the runs, and how to run them again."""
