"""From a sweep's question to its plan: every run composed, identified and costed before anything acts."""
