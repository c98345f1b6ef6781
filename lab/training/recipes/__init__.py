"""Recipes: what a model learns from, such as the text or the predictions of a teacher."""
