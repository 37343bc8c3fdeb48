"""Benchmarks: a script for each published figure, run as ``python -m benchmarks.<name>``."""
