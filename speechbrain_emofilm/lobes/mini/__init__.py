"""Parts of the mini backbone."""
