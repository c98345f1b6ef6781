"""Passes over one new token: what modules prepare for them when generation starts, and what layers share in each."""
