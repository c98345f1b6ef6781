"""The sweep language: reading a sweep file, and refusing what is wrong in it with its line."""
