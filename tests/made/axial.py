"""Small networks of axial attention, through the options that plans may set."""

from typing import Any

from tests.made.plans import Kind, configuration

SMALL: dict[str, Any] = {"features": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "num_heads": 4, "stem_channels": [4, 8]}


def axial_kind(network: str, labels: dict[str, Any], patch_size: list[int], **options: Any) -> Kind:
    """Return a configuration whose plans make `network` small and set more options."""
    dims = len(patch_size)
    if network in ("LoGo", "MedT", "MedTLocal"):
        options = {"local_stem": 4, **options}
    entry = configuration(patch_size, [[1] * dims, [2] * dims, [2] * dims], nnunet_attn={network: {**SMALL, **options}})
    return Kind("2d" if dims == 2 else "3d_fullres", entry, labels)
