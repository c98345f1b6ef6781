"""Commands that show what there is and what would happen, and run nothing of a sweep."""
