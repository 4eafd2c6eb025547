"""Signal features."""
