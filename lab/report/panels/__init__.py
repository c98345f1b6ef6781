"""The parts of a report: one file a panel, each a function from the report's data to a Panel."""
