"""Studies to start from: one a paper, and of all networks on one data set."""
