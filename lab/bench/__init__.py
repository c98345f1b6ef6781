"""Measurements of what the lab computes with, on the machine at hand: behind `lab bench`."""
