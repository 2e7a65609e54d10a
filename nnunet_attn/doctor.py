"""Checks an installation: folders, versions, the real look-ups of nnU-Net, and what the machine can do."""

import contextlib
import io
import os
import platform
import shutil
import warnings
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from nnunet_attn.paths import NNUNET_FOLDERS, TRAINER_VARIABLE, trainers_dir
from nnunet_attn.trainer_names import SUFFIXES, parse_trainer_name, trainer_names

COMPILE_VARIABLE = "nnUNet_compile"
PACKAGES = ("nnunet-attn", "nnunetv2", "torch", "dynamic-network-architectures", "batchgeneratorsv2", "SimpleITK")


@dataclass(frozen=True)
class Finding:
    """One thing checked.

    Args:
        what: What was checked.
        state: `ok`, `note` (nothing to mend) or `problem`.
        text: What was found.
        remedy: What to do about a problem.
    """

    what: str
    state: str
    text: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Check everything and return what was found."""
    return [*_versions(), *_folders(), *_trainers(), *_machine()]


def explain_trainer(name: str) -> Finding:
    """Say whether nnU-Net finds a trainer of this name, and if not, which part of the name is at fault."""
    parsed = parse_trainer_name(name, trainer_names())
    suffixes = ", ".join(suffix.written for suffix in SUFFIXES)
    if parsed.base is None:
        remedy = f"trainers of this package: {', '.join(trainer_names())}; then any of {suffixes}, in any order"
        if _lookup(name) is None:
            return Finding(name, "ok", "found by nnU-Net; not a trainer of this package")
        return Finding(name, "problem", "no trainer of this package has this name", remedy)
    if parsed.unknown:
        parts = ", ".join(f"'_{part}'" for part in parsed.unknown)
        return Finding(name, "problem", f"{parsed.base} exists, but not its suffix {parts}", f"suffixes: {suffixes}")
    if parsed.twice:
        parts = ", ".join(f"'_{part}'" for part in parsed.twice)
        return Finding(name, "problem", f"{parts} sets again what an earlier suffix has set", "give it once")
    failure = _lookup(name)
    if failure is not None:
        return Finding(name, "problem", f"nnU-Net does not find it: {failure}", _remedy())
    settings = ", ".join(f"{key} = {value}" for key, value in parsed.attributes.items()) or "no suffixes"
    return Finding(name, "ok", f"found by nnU-Net: {parsed.base}, {settings}")


def _remedy() -> str:
    return f'export {TRAINER_VARIABLE}="$(nnunet-attn trainers-dir)"'


def _lookup(name: str) -> str | None:
    """Return None if the look-up that train and predict use finds the trainer, else the reason."""
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = recursive_find_trainer_class_by_name(name)
    except Exception as error:  # a foreign trainer folder can fail with anything at import
        if isinstance(error, RuntimeError) and "Could not find requested nnunet trainer" in str(error):
            return f"it is not in {os.environ.get(TRAINER_VARIABLE) or 'any folder of trainers'}"
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return None if found.__name__ == name else f"it finds {found.__name__} instead"


def _versions() -> list[Finding]:
    findings = [Finding("Python", "ok", platform.python_version())]
    for package in PACKAGES:
        try:
            found = version(package)
        except PackageNotFoundError:
            findings.append(Finding(package, "problem", "not installed", f"pip install {package}"))
            continue
        supported = package != "nnunetv2" or found.startswith("2.8.")
        findings.append(
            Finding(package, "ok", found)
            if supported
            else Finding(package, "problem", found, 'pip install "nnunetv2>=2.8,<2.9"')
        )
    return findings


def _folders() -> list[Finding]:
    findings = []
    for variable in NNUNET_FOLDERS:
        value = os.environ.get(variable)
        if not value:
            findings.append(Finding(variable, "problem", "not set", f"export {variable}=/path/to/{variable}"))
        elif not Path(value).is_dir():
            findings.append(Finding(variable, "problem", f"{value} is no folder", f'mkdir -p "{value}"'))
        elif not os.access(value, os.W_OK):
            state = "note" if variable == "nnUNet_raw" else "problem"
            findings.append(Finding(variable, state, f"{value} is not writable", "give yourself write access to it"))
        else:
            free_gib = shutil.disk_usage(value).free / 2**30
            findings.append(Finding(variable, "ok", f"{value} ({free_gib:.0f} GiB free)"))
    return findings


def _trainers() -> list[Finding]:
    value = os.environ.get(TRAINER_VARIABLE)
    missing = [folder for folder in (value or "").split(os.pathsep) if not Path(folder).is_dir()]
    if not value:
        findings = [Finding(TRAINER_VARIABLE, "problem", "not set", _remedy())]
    elif missing:
        findings = [Finding(TRAINER_VARIABLE, "problem", f"no folder: {', '.join(missing)}", _remedy())]
    else:
        findings = [Finding(TRAINER_VARIABLE, "ok", value)]
    # nnUNetv2_train and nnUNetv2_predict share one look-up function; predict asks for the name in the checkpoint,
    # which is the full name with its suffixes
    names = [name for trainer in trainer_names() for name in (trainer, f"{trainer}_2epochs_NoMirroring")]
    failures = {name: failure for name in names if (failure := _lookup(name)) is not None}
    for reason in dict.fromkeys(failures.values()):
        missing = ", ".join(name for name, failure in failures.items() if failure == reason)
        findings.append(Finding("trainers", "problem", f"nnU-Net does not find {missing}: {reason}", _remedy()))
    if not failures:
        findings.append(
            Finding(
                "trainers",
                "ok",
                f"train and predict find all {len(trainer_names())}, with and without suffixes ({trainers_dir()})",
            )
        )
    return findings


def _machine() -> list[Finding]:
    import torch

    findings = []
    if torch.cuda.is_available():
        findings.append(Finding("CUDA", "ok", f"{torch.cuda.get_device_name()} (torch for CUDA {torch.version.cuda})"))
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        text = "supported" if bf16 else "not supported by this GPU: use fp16 (the default) or _fp32"
        findings.append(Finding("bfloat16", "ok" if bf16 else "note", text))
    else:
        findings.append(Finding("CUDA", "note", "not available: add '-device cpu' to nnU-Net's commands"))
        findings.append(Finding("bfloat16", "note", "on the CPU the suffix _bf16 works"))
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
    wanted = os.environ.get(COMPILE_VARIABLE)
    if wanted is not None and wanted.lower() not in ("true", "1", "t"):
        findings.append(Finding("torch.compile", "note", f"switched off by {COMPILE_VARIABLE}={wanted}"))
    elif not torch.cuda.is_available():
        findings.append(Finding("torch.compile", "note", "nnU-Net compiles trainings on CUDA only"))
    elif compiler is None:
        findings.append(
            Finding("torch.compile", "problem", "no C++ compiler", "install g++, or: export nnUNet_compile=f")
        )
    else:
        findings.append(Finding("torch.compile", "ok", f"C++ compiler: {compiler}"))
    return findings
