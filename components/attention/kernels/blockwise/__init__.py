"""Exact attention by blocks of queries and keys on a CPU, forward and backward, without a T×T tensor."""
