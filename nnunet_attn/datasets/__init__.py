"""Data sets: the synthetic phantom, and a few cases of a larger one."""
