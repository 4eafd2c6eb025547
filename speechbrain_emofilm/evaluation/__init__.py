"""Evaluation stack of every recipe: systems, measuring, diagnosis, report."""
