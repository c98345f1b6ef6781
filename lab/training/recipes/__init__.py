"""What a model learns from: the text, or a teacher's predictions."""
