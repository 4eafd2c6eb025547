"""Neural networks: plain modules that know no file and no recipe."""
