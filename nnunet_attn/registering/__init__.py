"""Loose images and labels, or known public layouts, turned into a data set in nnU-Net's raw format."""
