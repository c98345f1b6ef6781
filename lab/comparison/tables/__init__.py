"""A comparison as a table: for the terminal, LaTeX, Markdown, JSON and CSV."""
