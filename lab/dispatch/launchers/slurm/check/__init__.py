"""Checks whether a request can run on the cluster."""
