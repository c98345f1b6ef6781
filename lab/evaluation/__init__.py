"""Measure trained models: load the verified weights of a run and apply evaluators, which are components."""
