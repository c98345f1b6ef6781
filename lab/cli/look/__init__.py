"""Commands that inspect components, plans and this machine. They start no runs."""
