"""Import and export of published checkpoints: Hugging Face folders to an architecture with its weights, and back."""
