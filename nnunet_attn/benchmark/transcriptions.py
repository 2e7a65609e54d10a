"""Direct transcriptions of published networks, which a checkout has among its tests: speed is told against them."""

from pathlib import Path

from nnunet_attn.benchmark.topologies import Topology

FOLDER = Path("tests", "reference")
# Network of the registry -> file with `build`, which is right in 2D
TRANSCRIPTIONS = {
    "AxialUNet": "slow_axial_unet.py",
    "GatedAxialUNet": "slow_gated_axial_unet.py",
    "LoGo": "slow_logo.py",
    "MedT": "slow_medt.py",
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
    path = FOLDER / TRANSCRIPTIONS[network]
    if len(topology.plan.patch_size) != 2:
        return None, f"{path} is for 2D"
    if not path.is_file():
        return None, f"there is no {path} here, run from a checkout's root to have it"
    return path, ""
