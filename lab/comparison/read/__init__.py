"""Run folders as arms, seeds, values and curves."""
