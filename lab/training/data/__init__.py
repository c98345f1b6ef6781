"""The data of a run: its batches by step, document ids of packed sequences, and the validation loss."""
