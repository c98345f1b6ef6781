"""Synthetic tasks. Each item is a pure function of the seed and its number. `tasks` has their options."""
