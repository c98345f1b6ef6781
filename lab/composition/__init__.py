"""From names, YAML and overrides to one typed, frozen experiment, or to one clear message about what is wrong."""
