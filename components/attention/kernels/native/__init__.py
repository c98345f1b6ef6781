"""Attention in C++ for CPUs, built on this machine: tiles and matrix products of its own, forward and backward."""
