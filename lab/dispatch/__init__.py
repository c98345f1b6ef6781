"""Where runs run: claims, the worker, the local launcher, and what can be read of them while they go."""
