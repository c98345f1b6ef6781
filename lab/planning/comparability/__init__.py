"""Whether a metric of two runs has the same unit and is measured on the same sample, so that they can be compared."""
