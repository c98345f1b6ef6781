"""Files of a run folder, each as a typed record: what a run is, how it stands, and what it measured."""
