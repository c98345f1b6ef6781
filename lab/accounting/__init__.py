"""What a model costs, exactly and before it runs: parameters, FLOPs, key-value bytes."""
