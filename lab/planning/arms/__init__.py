"""From a sweep to its arms."""
