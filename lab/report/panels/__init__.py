"""The panels of a report: one file for each panel, with a function from the report's data to a Panel."""
