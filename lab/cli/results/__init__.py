"""Commands that show what a sweep came to."""
