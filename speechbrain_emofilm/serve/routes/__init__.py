"""Endpoints of the server, one module for each concern."""
