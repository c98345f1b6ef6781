"""Panels of what was measured: training curves, curves of evaluators, and attention maps."""
