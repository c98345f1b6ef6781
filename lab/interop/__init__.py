"""Published checkpoints in and out: Hugging Face folders to an architecture with its weights, and back."""
