"""Published attention networks as a plugin of nnU-Net v2."""

from importlib.metadata import version

__version__ = version("nnunet-attn")
