"""What evaluators measure with."""
