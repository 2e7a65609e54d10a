"""Prediction beyond nnU-Net's sliding window, and what networks attend to."""
