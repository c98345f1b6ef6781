"""Where text comes from: files, the Hub, Python's standard library."""
