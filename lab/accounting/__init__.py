"""What a model costs, from its configuration alone: parameters, FLOPs, bytes of the cache."""
