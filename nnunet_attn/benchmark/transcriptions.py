"""Direct transcriptions of published networks, which a checkout has among its tests: speed is told against them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_attn.architectures.published_keys import SOURCES
from nnunet_attn.benchmark.topologies import Topology

FOLDER = Path("tests", "reference")


@dataclass(frozen=True)
class Transcription:
    """A file of `FOLDER` with `build`.

    Args:
        file: Its name.
        dims: Number of spatial axes it is right for.
        source: Whose state dict it has, a key of `published_keys.SOURCES`.
        cells: Sub-volumes that it divides a volume into along each axis; none where it knows of no volume.
    """

    file: str
    dims: int
    source: str
    cells: Sequence[int] = ()


# By network of the registry
TRANSCRIPTIONS = {
    "AxialUNet": Transcription("slow_axial_unet.py", 2, "axialunet"),
    "GatedAxialUNet": Transcription("slow_gated_axial_unet.py", 2, "gatedaxialunet"),
    "LoGo": Transcription("slow_logo.py", 2, "logo"),
    "MedT": Transcription("slow_medt.py", 2, "medt"),
    "NNFormer": Transcription("slow_nnformer.py", 3, "nnformer"),
    "NNFormer2021": Transcription("slow_old_nnformer.py", 3, "nnformer_2021"),
    "FINE": Transcription("slow_fine.py", 3, "fine", cells=(5, 5, 5)),
}


def transcription(network: str, topology: Topology) -> tuple[Path | None, str]:
    """Return the file with the transcription of a network, and why there is none.

    The reason is empty where there is a file, and where nobody would expect one.

    Args:
        network: Name in the registry.
        topology: What is to be measured.
    """
    if network not in TRANSCRIPTIONS:
        return None, ""
    row = TRANSCRIPTIONS[network]
    path = FOLDER / row.file
    if len(topology.plan.patch_size) != row.dims:
        return None, f"{path} is for {row.dims}D"
    if not path.is_file():
        return None, f"there is no {path} here, run from a checkout's root to have it"
    return path, ""


def transcription_options(network: str, topology: Topology) -> dict[str, Any]:
    """Return the JSON-able options with which a network is the function that its transcription is.

    Args:
        network: Name in the registry, one of `TRANSCRIPTIONS`.
        topology: What is to be measured.
    """
    row = TRANSCRIPTIONS[network]
    options: dict[str, Any] = {
        needed.option: list(needed.value) if isinstance(needed.value, tuple) else needed.value
        for needed in SOURCES[row.source].required
    }
    if row.cells:
        sizes = zip(row.cells, topology.plan.patch_size, strict=True)
        options["volume_extent"] = [count * size for count, size in sizes]
    return options
