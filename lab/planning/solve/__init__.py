"""What is solved at plan time: matched sizes, equal FLOPs, tuned values."""
