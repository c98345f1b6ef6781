"""A comparison as a TensorBoard view: curves with bands, HParams, custom scalars, text."""
