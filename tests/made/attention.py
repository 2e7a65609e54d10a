"""Model folders with a network that nothing has been trained in, and images that they can predict."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from batchgenerators.utilities.file_and_folder_operations import save_json
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_attn.architectures.registry import NETWORKS
from nnunet_attn.paths import nnunet_environment
from nnunet_attn.training.extent import EXTENT_KEY, PLANS_KEY
from tests.made.plans import Kind

DATASET = "Dataset901_Made"


@dataclass(frozen=True)
class MadeModel:
    """Where a made model lies, and the words that name it on the command line.

    Args:
        root: Folder above nnU-Net's three folders.
        folder: The results folder.
        words: `-d`, `-tr`, `-c`, `-p`, `-f` and `-device` with their values.
    """

    root: Path
    folder: Path
    words: tuple[str, ...]

    @property
    def checkpoint(self) -> Path:
        """The checkpoint of fold 0."""
        return self.folder / "fold_0" / "checkpoint_final.pth"


def write_model(
    root: Path,
    trainer_name: str,
    kind: Kind,
    monkeypatch: pytest.MonkeyPatch,
    transpose: Sequence[int] = (0, 1, 2),
    reader: str = "SimpleITKIO",
    channels: int = 1,
    file_ending: str = ".nii.gz",
    extent: Sequence[int] | None = None,
    **entry: Any,
) -> MadeModel:
    """Write the results folder that a training would leave, by the trainer's own `save_checkpoint`, without training.

    Args:
        root: Folder above nnU-Net's three folders, which are set as environment.
        trainer_name: A trainer of this package, with suffixes.
        kind: The configuration.
        monkeypatch: Sets the environment.
        transpose: `transpose_forward` of the plans.
        reader: nnU-Net's class that reads images.
        channels: Channels of an image.
        file_ending: Of the images.
        extent: Size of the data set's volumes that the plans tell networks which read positions.
        entry: What else the configuration says.
    """
    for key, value in {**nnunet_environment(root, base={}), "nnUNet_n_proc_DA": "0"}.items():
        monkeypatch.setenv(key, value)
    small = {row.name: dict(row.small_options) for row in NETWORKS if row.small_options}
    plans = deepcopy(kind.plans)
    plans.update(transpose_forward=list(transpose), transpose_backward=np.argsort(transpose).tolist())
    plans["image_reader_writer"] = reader
    plans["foreground_intensity_properties_per_channel"] = {str(channel): {} for channel in range(channels)}
    chosen: Mapping[str, Any] = {
        "normalization_schemes": ["NoNormalization"] * channels,
        "use_mask_for_norm": [False] * channels,
        PLANS_KEY: small,
        **entry,
    }
    plans["configurations"][kind.configuration].update(deepcopy(dict(chosen)))
    if extent is not None:
        plans[PLANS_KEY] = {EXTENT_KEY: {kind.configuration: list(extent)}}
    described = {
        **kind.dataset_json,
        "channel_names": {str(channel): "noNorm" for channel in range(channels)},
        "file_ending": file_ending,
    }
    preprocessed = root / "preprocessed" / DATASET
    data = preprocessed / kind.entry["data_identifier"]
    data.mkdir(parents=True, exist_ok=True)
    (data / "case.b2nd").touch()  # the trainer looks for the kind of files, and never reads them here
    save_json(plans, str(preprocessed / "nnUNetPlansMade.json"))
    save_json(described, str(preprocessed / "dataset.json"))
    trainer_class: Any = recursive_find_trainer_class_by_name(trainer_name)
    torch.manual_seed(0)
    trainer = trainer_class(plans, kind.configuration, 0, described, torch.device("cpu"))
    trainer.initialize()
    trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    folder = Path(trainer.output_folder_base)
    save_json(trainer.plans_manager.plans, str(folder / "plans.json"))
    save_json(described, str(folder / "dataset.json"))
    trainer.save_checkpoint(str(folder / "fold_0" / "checkpoint_final.pth"))
    named = ("-d", DATASET, "-tr", trainer_name, "-c", kind.configuration, "-p", "nnUNetPlansMade", "-f", "0")
    return MadeModel(root, folder, (*named, "-device", "cpu"))


def write_image(
    folder: Path,
    case: str,
    array: np.ndarray,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    origin: Sequence[float] = (0.0, 0.0, 0.0),
    direction: Sequence[float] | None = None,
) -> Path:
    """Write an array (z y x), or (y x), as the first channel of a case; spacing, origin, direction as SimpleITK's."""
    image = sitk.GetImageFromArray(array.astype(np.float32))
    dims = array.ndim
    image.SetSpacing(list(spacing)[:dims])
    image.SetOrigin(list(origin)[:dims])
    if direction is not None:
        image.SetDirection(list(direction))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{case}_0000.nii.gz"
    sitk.WriteImage(image, str(file))
    return file
