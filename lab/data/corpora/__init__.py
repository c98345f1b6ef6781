"""Sources of text: files, the Hugging Face Hub, Python's standard library."""
