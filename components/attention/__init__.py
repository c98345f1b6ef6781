"""Attention: its meaning (spec), its heads and spans, its layer, and the kernels that compute it."""
