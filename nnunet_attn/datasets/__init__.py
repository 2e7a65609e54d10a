"""Data sets: the synthetic phantom."""
