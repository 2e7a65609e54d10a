"""Slow references, written from the papers' equations: loops in float64, nothing shared with what they check."""
