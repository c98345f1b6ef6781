"""Synthetic tasks as arrays: each item a pure function of (seed, its number). Their options are in `lab.data.tasks`."""
