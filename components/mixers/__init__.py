"""What mixes positions in a layer besides attention."""
