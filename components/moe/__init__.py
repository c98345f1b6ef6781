"""Mixtures of experts: many MLPs, a few of which process each token."""
