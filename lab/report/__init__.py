"""One HTML file that says what a sweep came to, for others to read: facts → panels → page."""
