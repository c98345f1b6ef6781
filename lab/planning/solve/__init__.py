"""Values that a plan solves for: the knob that makes arms equal, and the cells of tuned axes."""
