"""The cases that a data set's splits are made of: those that are preprocessed, or those of the raw data set."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.utils import get_identifiers_from_splitted_dataset_folder

from nnunet_attn.dataset_names import full_dataset_name
from nnunet_attn.datasets.splits_files import RECORD_FILE, SPLITS_FILE
from nnunet_attn.datasets.subset import read_description
from nnunet_attn.errors import InputError
from nnunet_attn.json_files import read_json


@dataclass(frozen=True)
class LabelledCases:
    """The training cases of a data set.

    Args:
        dataset: What the user calls it, for messages.
        folder: Its folder below nnUNet_preprocessed, which need not exist.
        raw: Its folder below nnUNet_raw, or None where there is none.
        cases: Names of the cases, in order.
        is_preprocessed: Whether they are the preprocessed ones.
    """

    dataset: str
    folder: Path
    raw: Path | None
    cases: tuple[str, ...]
    is_preprocessed: bool

    @property
    def place(self) -> Path:
        """The folder that the cases were found in."""
        return self.folder if self.is_preprocessed or self.raw is None else self.raw


def find_cases(dataset: str) -> LabelledCases:
    """Find the training cases of a data set, as nnU-Net's training will.

    Args:
        dataset: Name or number of the data set, in nnUNet_preprocessed or, before planning, in nnUNet_raw.
    Raises:
        InputError: If there is no such data set, or it has no cases or different ones in its configurations.
    """
    if not nnUNet_preprocessed.is_set():
        raise InputError("nnUNet_preprocessed is not set; set nnU-Net's three folders (see: nnunet-attn doctor)")
    remedy = "correct it, or put the data set into nnUNet_raw and run nnUNetv2_plan_and_preprocess"
    name = full_dataset_name(dataset, remedy=remedy)
    folder = Path(str(nnUNet_preprocessed)) / name
    raw = Path(str(nnUNet_raw)) / name if nnUNet_raw.is_set() else None
    raw = raw if raw is not None and (raw / "dataset.json").is_file() else None
    preprocessed = _preprocessed_cases(folder, dataset) if folder.is_dir() else ()
    if preprocessed:
        return LabelledCases(dataset, folder, raw, preprocessed, True)
    if raw is not None:
        return LabelledCases(dataset, folder, raw, _raw_cases(raw), False)
    if not folder.is_dir():
        raise InputError(
            f"{folder} does not exist, nor such a folder in nnUNet_raw; correct -d, or put the data set there"
        )
    raise InputError(f"{folder} has no preprocessed cases; run: nnUNetv2_plan_and_preprocess -d {dataset}")


def _raw_cases(raw: Path) -> tuple[str, ...]:
    description = read_description(raw)
    if isinstance(description.get("dataset"), Mapping):
        return tuple(sorted(description["dataset"]))
    images = raw / "imagesTr"
    cases = (
        get_identifiers_from_splitted_dataset_folder(str(images), description["file_ending"]) if images.is_dir() else ()
    )
    if not len(cases):
        raise InputError(f"{images} has no images (*{description['file_ending']}); put the training cases there")
    return tuple(sorted(map(str, cases)))


def _preprocessed_cases(folder: Path, dataset: str) -> tuple[str, ...]:
    """Return the names of the cases that all preprocessed configurations have, in order; none if there are none."""
    found: dict[str, set[str]] = {}
    for name in sorted(_data_identifiers(folder)):
        data = folder / name
        if data.is_dir() and any(data.iterdir()):
            try:
                found[name] = set(infer_dataset_class(str(data)).get_identifiers(str(data)))
            except (AssertionError, KeyError) as error:
                raise InputError(
                    f"{data} holds other files than nnU-Net's preprocessed cases; run: nnUNetv2_preprocess -d {dataset}"
                ) from error
    if not any(found.values()):
        return ()
    first, *others = found.items()
    for name, cases in others:
        if differing := sorted(cases ^ first[1]):
            raise InputError(
                f"{folder}: only one of {first[0]} and {name} has the case {differing[0]}; "
                f"run: nnUNetv2_preprocess -d {dataset}"
            )
    return tuple(sorted(first[1]))


def _data_identifiers(folder: Path) -> set[str]:
    """Return the names of the data folders that the plans of a data set name."""
    names: set[str] = set()
    for file in folder.glob("*.json"):
        if file.name in (SPLITS_FILE, RECORD_FILE):
            continue
        content: Any = read_json(file, "plan the data set again, or remove it if it is not nnU-Net's")
        if isinstance(content, Mapping) and isinstance(content.get("configurations"), Mapping):
            entries = content["configurations"].values()
            names.update(entry["data_identifier"] for entry in entries if "data_identifier" in entry)
    return names
