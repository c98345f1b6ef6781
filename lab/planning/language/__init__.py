"""The sweep language: its keys, how a file is read, and where each key stands in it."""
