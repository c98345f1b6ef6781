"""Panels of measurements: training curves, curves of evaluators, and attention maps."""
