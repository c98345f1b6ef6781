"""What is measured of a tiny instance: what outputs depend on, decoding from a cache, gradients, and storage."""
