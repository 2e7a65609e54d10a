"""Measurements: speed, memory and learning, written as JSON."""
