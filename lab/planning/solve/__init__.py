"""What a plan solves for: the knob values that make arms equal, and the cells of tuned axes."""
