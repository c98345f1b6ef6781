"""A comparison as a TensorBoard view: curves with bands, HParams, Custom Scalars and Text."""
