"""How gradients become steps: optimizers and learning-rate schedules."""
