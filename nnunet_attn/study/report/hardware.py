"""Versions, the machine that makes the report, and what the trainings ran on."""

from collections import Counter
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from nnunet_attn.study.report.model import RunInfo
from nnunet_attn.study.report.setup import Machine, TrainedOn

PACKAGES = ("nnunet_attn", "nnunetv2", "torch", "dynamic-network-architectures", "numpy", "scipy", "surface-distance")


def versions() -> dict[str, str | None]:
    """Return package -> installed version, Python's among them; None where a package is not there."""
    import platform

    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def this_machine() -> Machine:
    """Return what this machine is, without its name."""
    from nnunet_attn.benchmark.provenance import provenance

    told = provenance(None)["hardware"]
    gpu = told["gpu"]
    return Machine(told["cpu"], told["cpu_cores"], told["ram_bytes"], None if gpu is None else gpu["name"])


def trained_on(runs: Sequence[RunInfo]) -> tuple[TrainedOn, ...]:
    """Return what trainings ran on, the most frequent first; what rows share counts once."""
    facts = {each.run.fold_folder: each.facts for each in runs}.values()
    counts = Counter((each.device, each.torch, each.cudnn, each.nnunet_attn) for each in facts if each.device)
    return tuple(
        TrainedOn(device, torch, cudnn, package, count)
        for (device, torch, cudnn, package), count in counts.most_common()
        if device is not None
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
