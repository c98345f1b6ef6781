"""Whether a request can run on the cluster."""
