"""The report of a sweep as one HTML file, to share with others: data → panels → page."""
