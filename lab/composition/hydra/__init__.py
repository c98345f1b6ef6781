"""Composition with Hydra: files, groups, overrides, and swaps of components."""
