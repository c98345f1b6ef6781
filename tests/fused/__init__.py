"""Fused pieces against their naive forms in fp64, and when they refuse."""
