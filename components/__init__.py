"""What a model is made of. Imports torch only, and knows nothing of the lab."""
