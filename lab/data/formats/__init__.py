"""How files become documents: one reader a format, and one table that says which reader reads what.

`table.read` is the way in. Readers stream: what is in memory is at most a document, or a fixed number of rows.
"""
