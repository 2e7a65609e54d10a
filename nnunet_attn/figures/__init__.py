"""Figures of cases: image, reference and predictions side by side."""
