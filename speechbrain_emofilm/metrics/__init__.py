"""Measures of synthesised speech."""
