"""Composition with Hydra: files, groups, overrides, and what a swap keeps."""
