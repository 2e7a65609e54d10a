"""A data set with cross-validation results, in the folders and files that nnU-Net leaves, without any training."""

import json
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import SimpleITK as sitk
from nnunetv2.evaluation import evaluate_predictions
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.crossval_split import generate_crossval_split
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from nnunet_attn.datasets.phantom import LABELS, phantom_case
from nnunet_attn.paths import nnunet_environment
from nnunet_attn.replacing import replaced
from tests.made.plans import configuration

DATASET = "Dataset910_Results"
TRAINER = "nnUNetTrainer"
SIZES = {2: (32, 48), 3: (12, 24, 32)}
REGIONS = {"background": 0, "liver and lesion": [1, 2], "lesion": 2, "left kidney": 3, "right kidney": 4}
IGNORE = {**LABELS, "ignore": 5}

Labels = NDArray[np.uint8]


def write_results(
    root: Path,
    trainers: Mapping[str, float],
    folds: int = 5,
    cases: int = 10,
    dims: int = 3,
    labels: Mapping[str, Any] = LABELS,
    file_ending: str = ".nii.gz",
    dataset: str = DATASET,
) -> dict[str, str]:
    """Write references, splits, plans and each trainer's `fold_k/validation` below `root`.

    Raw and preprocessed images and real weights are left out. The 2D configuration is `2d`, the 3D one `3d_fullres`.

    Args:
        trainers: Trainer's name -> how far its predictions are displaced, in voxels; 0 gives the references. A name
            `TRAINER__PLANS` gives other plans than nnUNetPlans.
        folds: Folds of nnU-Net's own split.
        cases: Cases `case_000`, `case_001`, ...
        dims: 2 or 3.
        labels: As in dataset.json; `REGIONS` and `IGNORE` are such, "ignore" is the slab of the first rows.
        file_ending: `.nii.gz`, or `.png` in 2D.
        dataset: Name of the data set.
    Returns:
        The environment in which nnU-Net finds all of it.
    """
    environment = nnunet_environment(root, base={})
    raw, preprocessed, results = (root / name / dataset for name in ("raw", "preprocessed", "results"))
    writer = NaturalImage2DIO() if file_ending == ".png" else SimpleITKIO()
    dataset_json: dict[str, Any] = {
        "channel_names": {"0": "MRI"},
        "labels": dict(labels),
        "numTraining": cases,
        "file_ending": file_ending,
    }
    if any(isinstance(value, Sequence) for value in labels.values()):
        dataset_json["regions_class_order"] = [1, 2, 3, 4]
    references: dict[str, tuple[Labels, dict[str, Any]]] = {}
    for index in range(cases):
        rng = np.random.default_rng([dims, index])
        _, reference, spacing_mm = phantom_case(dims, SIZES[dims], rng)
        if "ignore" in labels:
            reference[..., :4, :] = labels["ignore"]
        references[f"case_{index:03d}"] = reference, _properties(spacing_mm)
    for folder in (raw / "labelsTr", preprocessed / "gt_segmentations"):
        folder.mkdir(parents=True)
        for case, (reference, properties) in references.items():
            _write(writer, reference, folder / f"{case}{file_ending}", properties)
    splits = generate_crossval_split(list(np.sort(list(references))), seed=12345, n_splits=folds)
    for folder in (raw, preprocessed):
        _save(dataset_json, folder / "dataset.json")
    _save(splits, preprocessed / "splits_final.json")

    for name, displacement in trainers.items():
        trainer, _, plans_name = name.partition("__")
        plans = _plans(dataset, plans_name or "nnUNetPlans", dims, type(writer).__name__)
        _save(plans, preprocessed / f"{plans['plans_name']}.json")
        (chosen,) = plans["configurations"]
        model = results / f"{trainer}__{plans['plans_name']}__{chosen}"
        model.mkdir(parents=True)
        for content, file in ((plans, "plans.json"), (dataset_json, "dataset.json"), ({}, "dataset_fingerprint.json")):
            _save(content, model / file)
        for fold, split in enumerate(splits):
            validation = model / f"fold_{fold}" / "validation"
            validation.mkdir(parents=True)
            (validation.parent / "checkpoint_final.pth").write_bytes(b"no weights")
            for case in split["val"]:
                reference, properties = references[case]
                seeds = [zlib.crc32(trainer.encode()), int(case.removeprefix("case_"))]
                predicted = displaced(reference, displacement, np.random.default_rng(seeds))
                if "ignore" in labels:  # networks never predict it
                    predicted[predicted == labels["ignore"]] = 0
                _write(writer, predicted, validation / f"{case}{file_ending}", properties)
            write_stock_summary(preprocessed / "gt_segmentations", validation, dataset_json)
    return environment


def model_folder(root: Path, trainer: str = TRAINER, configuration: str = "3d_fullres") -> Path:
    """Return the model folder that `write_results` made below `root`."""
    return root / "results" / DATASET / f"{trainer}__nnUNetPlans__{configuration}"


def rewrite(file: Path, change: Callable[[NDArray[Any]], NDArray[Any]] = np.copy, **geometry: Sequence[float]) -> None:
    """Change a label file's array, or its spacing, origin or direction."""
    image = sitk.ReadImage(str(file))
    changed = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(image)))
    changed.SetSpacing(geometry.get("spacing", image.GetSpacing()))
    changed.SetOrigin(geometry.get("origin", image.GetOrigin()))
    changed.SetDirection(geometry.get("direction", image.GetDirection()))
    sitk.WriteImage(changed, str(file))


def displaced(labels: Labels, voxels: float, rng: np.random.Generator) -> Labels:
    """Move labels by a smooth random field whose displacements have this standard deviation; background comes in."""
    if voxels == 0:
        return labels.copy()
    fields = [gaussian_filter(rng.normal(size=labels.shape), 2.0) for _ in labels.shape]
    grid = np.meshgrid(*[np.arange(length) for length in labels.shape], indexing="ij")
    points = [axis + voxels * field / field.std() for axis, field in zip(grid, fields, strict=True)]
    return map_coordinates(labels, points, order=0, mode="constant").astype(np.uint8)


def write_stock_summary(references: Path, predictions: Path, dataset_json: Mapping[str, Any]) -> None:
    """Write nnU-Net's summary.json by its own function, in threads instead of processes that import torch first."""
    manager = LabelManager(dict(dataset_json["labels"]), dataset_json.get("regions_class_order"))
    wanted: list[Any] = list(manager.foreground_regions if manager.has_regions else manager.foreground_labels)
    ignore: Any = manager.ignore_label
    reader = NaturalImage2DIO() if dataset_json["file_ending"] == ".png" else SimpleITKIO()
    threads = SimpleNamespace(get_context=lambda _: SimpleNamespace(Pool=ThreadPool))
    with replaced(evaluate_predictions, "multiprocessing", threads), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class that is in no case at all
        evaluate_predictions.compute_metrics_on_folder(
            str(references),
            str(predictions),
            str(predictions / "summary.json"),
            reader,
            dataset_json["file_ending"],
            wanted,
            ignore,
            num_processes=1,
        )


def _plans(dataset: str, plans_name: str, dims: int, reader: str) -> dict[str, Any]:
    strides = [[1] * dims, [2] * dims, [2] * dims]
    return {
        "dataset_name": dataset,
        "plans_name": plans_name,
        "original_median_spacing_after_transp": [2.0, 1.0, 1.0],
        "original_median_shape_after_transp": [12, 24, 32],
        "image_reader_writer": reader,
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"2d" if dims == 2 else "3d_fullres": configuration([12] * dims, strides)},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {}},
    }


def _properties(spacing_mm: Sequence[float]) -> dict[str, Any]:
    dims = len(spacing_mm)
    spacing = tuple(float(step) for step in reversed(spacing_mm))
    return {"sitk_stuff": {"spacing": spacing, "origin": (0.0,) * dims, "direction": tuple(np.eye(dims).ravel())}}


def _write(writer: BaseReaderWriter, labels: Labels, file: Path, properties: dict[str, Any]) -> None:
    writer.write_seg(labels if labels.ndim == 3 else labels[None], str(file), properties)


def _save(content: Any, file: Path) -> None:
    file.write_text(json.dumps(content, indent=4), encoding="utf-8")
