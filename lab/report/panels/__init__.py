"""The parts of a report, a file each: from facts to a Panel."""
