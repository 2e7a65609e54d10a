"""Plans: smaller ones derived from nnU-Net's own."""
