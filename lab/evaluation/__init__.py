"""What trained models are measured by: a run's weights loaded and verified, and evaluators that are components."""
