"""Pieces of a block that are fused on CPU: each computes in one pass what a naive form computes in several.

`piece.py` says when the fused form is used. A naive form stands beside each piece, as its reference and for all other
cases: other devices and dtypes, second derivatives, compiled blocks, machines without a C++ compiler.
"""
