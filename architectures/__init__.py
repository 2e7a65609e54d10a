"""The networks: plain PyTorch modules that know nothing of nnU-Net."""
