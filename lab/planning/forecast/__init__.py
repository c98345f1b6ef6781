"""Forecasts for a plan: time, memory, statistical power, and what fits into a budget."""
