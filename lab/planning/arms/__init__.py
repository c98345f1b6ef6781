"""The arms of a sweep: named swaps multiplied by axes, and the dependencies between arms."""
