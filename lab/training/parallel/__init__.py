"""Train one run with several processes."""
