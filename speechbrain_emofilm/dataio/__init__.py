"""Word labels, alignments, markup and text units."""
