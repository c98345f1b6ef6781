"""The sweep language: its keys, and how a sweep file is read with the line of each key."""
