"""A comparison as a table: in the terminal, in LaTeX and Markdown, as JSON and CSV."""
