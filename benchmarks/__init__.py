"""Benchmarks: one command each, tables committed in README.md."""
