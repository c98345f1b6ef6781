"""Panels with the answer: verdicts, differences, effects of axes, scaling laws, and quality against cost."""
