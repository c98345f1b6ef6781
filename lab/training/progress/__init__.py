"""Curves, throughput and summaries of a run."""
