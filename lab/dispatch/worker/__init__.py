"""The process that trains: from claiming a run folder to its final state."""
