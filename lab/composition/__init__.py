"""Composition: names, YAML and overrides give one typed, frozen experiment, or one message about what is wrong."""
