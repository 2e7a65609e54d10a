"""Public data sets as they are unpacked, by name."""
