"""Wrappers of third-party packages, imported only when used."""
