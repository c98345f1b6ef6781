"""Measurements that evaluators are built from."""
