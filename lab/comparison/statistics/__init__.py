"""The statistics of a comparison: paired differences, intervals, corrections, effects and scaling laws."""
