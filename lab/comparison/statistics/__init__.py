"""How sure a comparison is: paired differences, intervals, corrections, effects and laws."""
