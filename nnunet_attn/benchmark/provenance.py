"""What a result was measured with, and writing it: no host name, user name or absolute path gets into the file."""

import json
import os
import platform
import re
import shlex
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import Any

import torch

from nnunet_attn.errors import InputError
from nnunet_attn.paths import check_writable

_PACKAGES = ("torch", "nnunetv2", "nnunet_attn", "dynamic-network-architectures")


def provenance(seed: int | None) -> dict[str, Any]:
    """Return date, versions, hardware and seed, JSON-able."""
    return {
        "date_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seed": seed,
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "hardware": {
            "cpu": _cpu_model(),
            "cpu_cores": os.cpu_count(),
            "ram_bytes": _ram_bytes(),
            "load_average": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
            "gpu": _gpu(),
        },
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    """The model name that Linux tells; elsewhere the architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _ram_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _gpu() -> dict[str, Any] | None:
    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def cuda_ceilings(repeats: int = 20) -> dict[str, float]:
    """Measure what the GPU can do: copy bandwidth (bytes read plus bytes written) and bf16 matrix products."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    size = 8192
    a = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)

    def seconds(work: Any) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        for _ in range(3):
            work()
        start.record()
        for _ in range(repeats):
            work()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000 / repeats

    return {
        "copy_bytes_per_s": 2 * source.numel() / seconds(lambda: target.copy_(source)),
        "bf16_matmul_flops_per_s": 2 * size**3 / seconds(lambda: a @ a),
    }


def command_line(module: str, arguments: Sequence[str]) -> str:
    """Return the command that was typed; a path that leads out of the working folder is cut to its last part."""
    return shlex.join(["python", "-m", module, *map(_without_place, arguments)])


def _without_place(argument: str) -> str:
    option, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
    path = PurePath(value)
    if value.startswith("~") or path.is_absolute() or ".." in path.parts:
        value = path.name
    return f"{option}{equals}{value}"


def check_output(path: Path) -> None:
    """Check, before anything is measured, that a result can be written.

    Raises:
        InputError: If the path is a folder, or its folder does not exist or cannot be written to.
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        raise InputError(f"--out {str(path)!r}: its folder does not exist; create it first")
    if path.is_dir():
        raise InputError(f"--out {str(path)!r} is a folder; name a file")
    check_writable(folder)


def write_json(path: Path, content: Any) -> None:
    """Write under a temporary name beside `path`, then rename: a reader never sees half a file.

    A list of numbers takes one line, so that a difference between two results can be read.
    """
    text = json.dumps(content, indent=2, allow_nan=False)
    text = re.sub(r'\[\n\s+([^\[\]{}"]+?)\n\s+\]', lambda found: f"[{' '.join(found[1].split())}]", text)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_text(text + "\n", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
