"""The chain of stock commands from unlabelled images to weights, and what an unlabelled data set needs for it."""
