"""Synthetic tasks: each item a pure function of (seed, its number). Their options are in `tasks`."""
