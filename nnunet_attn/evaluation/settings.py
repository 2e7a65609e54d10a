"""What is to be measured: checked, and completed for the classes of a data set."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.results import METRICS, Settings

DEFAULT_TOLERANCE_MM = 1.0
ALL_CLASSES = "*"
"""As a class name in `Settings.tolerance_mm`: the tolerance of all classes that are not named."""

KITS23_TOLERANCE_MM = {"kidney_and_masses": 1.0331, "masses": 1.1329, "tumour": 1.1498}
"""The tolerances of the KiTS23 challenge's surface Dice."""

SURFACES = ("area", "erosion")


def chosen_settings(
    metrics: Sequence[str] | None = None,
    tolerance_mm: float | Mapping[str, float] = DEFAULT_TOLERANCE_MM,
    surface: str | None = None,
    preset: str | None = None,
) -> Settings:
    """Return checked settings, which `settings_for` completes for a data set.

    Args:
        metrics: Of `METRICS`; all by default.
        tolerance_mm: One for all classes, or class -> tolerance; classes that it does not name have 1 mm.
        surface: "area" (default) or "erosion".
        preset: A name of `nnunet_attn.evaluation.presets.PRESETS`; it says metrics and surface itself.
    Raises:
        InputError: If a name is unknown, a tolerance is negative, or a preset comes with metrics or a surface.
    """
    from nnunet_attn.evaluation.presets import find_preset

    tolerances = dict(tolerance_mm) if isinstance(tolerance_mm, Mapping) else {ALL_CLASSES: float(tolerance_mm)}
    if preset is not None:
        if metrics is not None or surface is not None:
            raise InputError(f"--preset {preset} says metrics and surface itself; leave out --metrics and --surface")
        chosen = find_preset(preset)
        metrics, surface = chosen.metrics, chosen.surface
        if not isinstance(tolerance_mm, Mapping) and tolerance_mm == DEFAULT_TOLERANCE_MM:
            tolerances = {}  # the preset's own, which depend on the classes
    settings = Settings(tuple(METRICS if metrics is None else metrics), tolerances, surface or SURFACES[0], preset)
    check_settings(settings)
    return settings


def check_settings(settings: Settings) -> None:
    """Check names and tolerances.

    Raises:
        InputError: If a name is unknown or twice, or a tolerance is not a number of mm, 0 or larger.
    """
    if unknown := [name for name in settings.metrics if name not in METRICS]:
        raise InputError(f"--metrics: {unknown[0]!r} is no metric; choose from {', '.join(METRICS)}")
    if not settings.metrics or len(set(settings.metrics)) < len(settings.metrics):
        raise InputError(f"--metrics {' '.join(settings.metrics)}: give each metric once, and at least one")
    if settings.surface not in SURFACES:
        raise InputError(f"--surface {settings.surface}: it is one of {', '.join(SURFACES)}")
    for name, value in settings.tolerance_mm.items():
        if not (math.isfinite(value) and value >= 0):
            given = f"{value:g}" if name == ALL_CLASSES else f"{name}={value:g}"
            raise InputError(f"--tolerance {given}: a tolerance is a number of mm, 0 or larger")


def settings_for(
    settings: Settings, classes: Mapping[str, tuple[int, ...]], own: Mapping[str, float] | None = None
) -> Settings:
    """Return settings with a tolerance for each class.

    Args:
        settings: From `chosen_settings`. A name finds its class as `classes_called` says.
        classes: Of the data set.
        own: Class -> a preset's tolerance, where neither its name nor one number for all was given.
    Raises:
        InputError: If a tolerance names a class that the data set has not, or that another one names too.
    """
    found: dict[str, float] = {}
    for name, value in settings.tolerance_mm.items():
        if name == ALL_CLASSES:
            continue
        fitting = classes_called(name, classes)
        if len(fitting) != 1 or fitting[0] in found:
            raise InputError(
                f"--tolerance {name}={value:g}: the classes are {', '.join(classes)}; name each at most once, "
                "or give one number for all"
            )
        found[fitting[0]] = value
    other = dict.fromkeys(classes, settings.tolerance_mm.get(ALL_CLASSES, DEFAULT_TOLERANCE_MM))
    if ALL_CLASSES not in settings.tolerance_mm:
        other |= own or {}
    tolerances = {name: found.get(name, other[name]) for name in classes}
    return Settings(settings.metrics, tolerances, settings.surface, settings.preset)


def classes_called(name: str, classes: Iterable[str]) -> list[str]:
    """Return the classes that a name may mean: the one of exactly this name, else all that differ in spelling alone.

    Case, spaces and underscores do not count, `tumor` is `tumour`, and the region of a whole kidney may be called
    `kidney` alone, as in nnU-Net's own conversion of KiTS23.
    """
    classes = list(classes)
    wanted = {_plain(name), *(["kidney"] if _plain(name) == "kidneyandmasses" else [])}
    return [name] if name in classes else [each for each in classes if _plain(each) in wanted]


def parsed_tolerance(words: Sequence[str] | None) -> float | dict[str, float]:
    """Return what the words of `--tolerance` say: one number, CLASS=NUMBER and kits23.

    Raises:
        InputError: If a word is none of these, or two of them say the same tolerance.
    """
    found: dict[str, float] = {}
    kits = [word for word in words or () if word.lower() == "kits23"]
    for word in words or ():
        if word in kits:
            continue
        name, equals, number = word.rpartition("=")
        try:
            value = float(number)
        except ValueError as error:
            raise InputError(
                f"--tolerance {word}: give a number of mm, CLASS=MM for single classes, or kits23"
            ) from error
        name = name if equals else ALL_CLASSES
        if name in found:
            of = f"the class {name}" if equals else "all classes"
            raise InputError(f"--tolerance {' '.join(words or ())}: two tolerances of {of}; give one")
        found[name] = value
    return {**(KITS23_TOLERANCE_MM if kits else {}), **found} or DEFAULT_TOLERANCE_MM


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower()).replace("tumor", "tumour")
