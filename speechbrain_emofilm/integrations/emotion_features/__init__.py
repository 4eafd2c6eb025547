"""Frame-level emotion features."""
