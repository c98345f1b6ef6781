"""Read the run folders of a sweep as arms, seeds, values and curves."""
