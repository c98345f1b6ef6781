"""From a sweep file to its arms: named swaps times axes, and which arm depends on which."""
