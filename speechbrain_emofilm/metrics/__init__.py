"""Metrics of synthesised speech and of word labels."""
