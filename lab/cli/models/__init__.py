"""Commands that use a trained or imported model."""
