"""Attention maps of whole images: predicted, stitched, put back into the image's own geometry and written."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot
from numpy.typing import NDArray
from tqdm import tqdm

from nnunet_attn.errors import InputError
from nnunet_attn.inference.attention_files import GREY_PER_UNIT, NO_VALUE, label_means, label_names, write_map
from nnunet_attn.inference.attention_geometry import Geometry, array_index, file_size, is_picture
from nnunet_attn.inference.attention_model import TrainedModel, previous_stage_file, read_image
from nnunet_attn.inference.attention_montage import Montage, shown_stages
from nnunet_attn.inference.attention_stitching import (
    STEP,
    ImageMap,
    Tiling,
    grid_maps,
    has_grid,
    stitched_maps,
    voxel_maps,
)
from nnunet_attn.paths import make_folder


@dataclass(frozen=True)
class MapOptions:
    """Which maps are made.

    Args:
        stages: Names of stages, for networks with `attention_grid` also their numbers; None: all.
        heads: Whether files of the single heads are written beside that of their mean.
        voxel: What this voxel (i, j, k of the file) attends to; None: what every place receives from all.
        query: For networks with `attention_grid`: attention of all tokens of a block, or of its centre alone.
        include_self: For networks with `attention_grid`: whether a token's attention to itself counts.
    """

    stages: tuple[str, ...] | None = None
    heads: Literal["mean", "all"] = "mean"
    voxel: tuple[int, ...] | None = None
    query: Literal["all", "centre"] = "all"
    include_self: bool = True


def write_attention_maps(
    model: TrainedModel,
    cases: dict[str, list[Path]],
    output: Path,
    options: MapOptions,
    previous_stage: Path | None = None,
) -> Iterator[tuple[str, list[Path]]]:
    """Write the maps of each case and yield its name and files; a case has all of its files or none.

    Everything that the options ask for is checked before the first case.

    Args:
        model: The model.
        cases: Files of each case, one a channel.
        output: Folder of the files; made if it is not there.
        options: Which maps.
        previous_stage: Folder with the segmentations of a cascade's previous stage.
    Raises:
        InputError: If a stage or a voxel does not exist, options do not fit the network, an image cannot be used, or
            the folder cannot be written to.
    """
    stages = chosen_stages(model, options)
    previous = {case: previous_stage_file(model, previous_stage, case) for case in cases}
    make_folder(output)
    if options.voxel is not None:
        for case, files in cases.items():
            _Case(case, files, previous[case], model).voxel(options.voxel)
    for case, files in cases.items():
        with tempfile.TemporaryDirectory(dir=output, prefix=f".{case}_attn_") as folder:
            names = _write_case(_Case(case, files, previous[case], model), stages, options, Path(folder))
            for name in names:
                os.replace(Path(folder) / name, output / name)
        yield case, [output / name for name in names]
    compute_gaussian.cache_clear()


def chosen_stages(model: TrainedModel, options: MapOptions) -> tuple[str, ...]:
    """Return the names of the stages that are asked for, in the network's order.

    Raises:
        InputError: If one does not exist, or other options do not fit the network.
    """
    network = type(model.network).__name__
    on_grid = has_grid(model.network)
    for flag, given in (("--query centre", options.query != "all"), ("--no-self", not options.include_self)):
        if given and not on_grid:
            raise InputError(f"{flag} is for networks of one block of patches (PatchTransformer); {network} has none")
        if given and options.voxel is not None:
            raise InputError(f"{flag} and --voxel exclude each other: a voxel is the query itself; leave one out")
    if options.stages is None:
        return model.stages
    wanted = [f"s{stage}" if on_grid and stage.isdigit() else stage for stage in options.stages]
    unknown = [stage for stage in wanted if stage not in model.stages]
    if unknown or not wanted:
        shown = repr(unknown[0]) if unknown else "that is not named"
        raise InputError(f"--stages: {network} has no stage {shown}; there are {', '.join(model.stages)}")
    return tuple(stage for stage in model.stages if stage in wanted)


def parsed_stages(words: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the names of stages that a user has typed, apart or with commas between them; None for None."""
    return None if words is None else tuple(name for word in words for name in word.split(",") if name)


def parsed_voxel(text: str | None) -> tuple[int, ...] | None:
    """Return the numbers of a voxel that a user has typed, `i,j,k` or for a picture `i,j`; None for None.

    Raises:
        InputError: If it is something else.
    """
    if text is None:
        return None
    try:
        voxel = tuple(int(number) for number in text.split(","))
    except ValueError:
        voxel = ()
    if len(voxel) not in (2, 3):
        raise InputError(f"--voxel takes whole numbers with commas, i,j,k, or i,j for a 2D image; got {text!r}")
    return voxel


class _Case:
    """An image: read, and preprocessed when that is asked for.

    Raises:
        InputError: If it cannot be used.
    """

    def __init__(self, name: str, files: Sequence[Path], previous: str | None, model: TrainedModel) -> None:
        self.name = name
        self.files = list(files)
        self.model = model
        self.image, self.read_properties = read_image(files, model)
        predictor: Any = model.predictor
        before = None if previous is None else predictor.plans_manager.image_reader_writer_class().read_seg(previous)[0]
        data, seg, properties = predictor.configuration_manager.preprocessor_class(verbose=False).run_case_npy(
            self.image,
            before,
            dict(self.read_properties),
            predictor.plans_manager,
            predictor.configuration_manager,
            predictor.dataset_json,
        )
        if previous is not None:
            hot = convert_labelmap_to_one_hot(seg[0], predictor.label_manager.foreground_labels, data.dtype)
            data = np.vstack((data, hot))
        self.data = torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32))
        self.geometry = Geometry(
            predictor.plans_manager, predictor.configuration_manager, properties, tuple(self.data.shape[1:])
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels of the array that the reader returned."""
        return tuple(self.image.shape[1:])

    def voxel(self, wanted: Sequence[int]) -> tuple[int, ...]:
        """Return the preprocessed voxel that a voxel of the file is in.

        Raises:
            InputError: If it is outside the image, or outside of what preprocessing keeps of it.
        """
        try:
            found = self.geometry.to_preprocessed(array_index(wanted, self.read_properties, self.shape))
        except InputError as error:
            raise InputError(f"case {self.name}: {error}") from None
        if found is None:
            raise InputError(
                f"case {self.name}: --voxel {','.join(map(str, wanted))} is in the margin of zeros that nnU-Net cuts "
                "off, where the network sees nothing; choose one inside the body"
            )
        return found

    def segmentation(self) -> NDArray[np.integer[Any]]:
        """Return the predicted segmentation, in the reader's array."""
        predictor: Any = self.model.predictor
        logits = predictor.predict_logits_from_preprocessed_data(self.data).cpu()
        found: Any = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits,
            predictor.plans_manager,
            predictor.configuration_manager,
            predictor.label_manager,
            self.geometry.properties,  # pyright: ignore[reportArgumentType]
        )
        return found

    def maps(self, stages: Sequence[str], options: MapOptions, on_part: Callable[[], object]) -> Iterator[ImageMap]:
        """Return the maps of the preprocessed image, stage by stage."""
        predictor: Any = self.model.predictor
        network, device = self.model.network.to(predictor.device), predictor.device
        patch_size = predictor.configuration_manager.patch_size
        if options.voxel is not None:
            return voxel_maps(network, self.data, patch_size, self.voxel(options.voxel), stages, device)
        if has_grid(network):
            return grid_maps(network, self.data, stages, options.query, options.include_self, on_part)
        return stitched_maps(network, self.data, patch_size, stages, device, on_part)


def _write_case(case: _Case, stages: Sequence[str], options: MapOptions, folder: Path) -> list[str]:
    """Write all files of a case to a folder and return their names."""
    segmentation = case.segmentation()
    labels = label_names(case.model.dataset_json)
    crop = case.geometry.crop
    drawn = shown_stages(stages)
    montage = _montage(case, segmentation, len(drawn), len(stages), options)
    table = _table(case, options)
    outside = 0.0 if options.voxel is None else float("nan")
    files: list[str] = []
    with tqdm(desc=case.name, unit=" tiles", leave=False) as progress:
        for found in case.maps(stages, options, partial(progress.update, 1)):
            values = case.geometry.to_file(found.values, outside)
            written = write_map(
                values, folder / f"{case.name}_attn_{found.stage}", case.read_properties, options.heads == "all"
            )
            files += [path.name for path in written]
            if found.stage in drawn:
                montage.add(found.stage, values)
            seen = values[:, crop]
            seen = seen[np.isfinite(seen)]
            table["stages"].append(
                {
                    "stage": found.stage,
                    "files": [path.name for path in written],
                    "heads": len(values),
                    "note": found.note,
                    "lowest": float(seen.min()) if seen.size else None,
                    "highest": float(seen.max()) if seen.size else None,
                    "mean": float(seen.mean(dtype=np.float64)) if seen.size else None,
                    "labels": label_means(values, segmentation, labels, crop),
                }
            )
    montage.draw(folder / f"{case.name}_attn.png", labels)
    text = json.dumps(table, indent=2, allow_nan=False) + "\n"
    (folder / f"{case.name}_attn.json").write_text(text, encoding="utf-8")
    return [*files, f"{case.name}_attn.png", f"{case.name}_attn.json"]


def _montage(
    case: _Case, segmentation: NDArray[np.integer[Any]], drawn: int, stages: int, options: MapOptions
) -> Montage:
    # the axis that nnU-Net puts first has the thickest slices
    axis = case.geometry.plans.transpose_forward[0]
    what = "attention received" if options.voxel is None else f"attention of voxel {','.join(map(str, options.voxel))}"
    some = "" if drawn == stages else f"; {drawn} of {stages} stages"
    title = f"{case.name}, {case.model.name.trainer}: {what}{some}"
    voxel = None if options.voxel is None else array_index(options.voxel, case.read_properties, case.shape)
    spacing_mm = [float(step) for step in case.read_properties["spacing"]]
    return Montage(title, case.image[0], segmentation, axis, spacing_mm, voxel)


def _table(case: _Case, options: MapOptions) -> dict[str, Any]:
    """Return what the JSON says of the case, without the stages."""
    model, predictor = case.model, case.model.predictor
    patch_size = [int(size) for size in predictor.configuration_manager.patch_size]
    on_grid = has_grid(model.network)
    table: dict[str, Any] = {
        "case": case.name,
        "images": [str(path) for path in case.files],
        "size": list(file_size(case.read_properties, case.shape)),
        "network": type(model.network).__name__,
        "trainer": model.name.trainer,
        "configuration": model.configuration_name,
        "plans": model.name.plans,
        "fold": model.name.fold,
        "checkpoint": model.name.checkpoint,
        "maps": "received" if options.voxel is None else "of a voxel",
        "voxel": None if options.voxel is None else list(options.voxel),
        "query": options.query if on_grid else None,
        "include_self": options.include_self if on_grid else None,
        "unit": "1.0 is uniform attention",
        "outside_the_crop": 0.0 if options.voxel is None else "nan",
        "mirroring": False,
        "tiles": None,
        "stages": [],
    }
    if not on_grid:
        count = len(Tiling(tuple(case.data.shape[1:]), tuple(patch_size)).slices()) if options.voxel is None else 1
        table["tiles"] = {"size": patch_size, "step": STEP, "number": count}
    if is_picture(case.read_properties, case.shape):
        table["grey_values"] = {"per_unit": GREY_PER_UNIT, "no_value": NO_VALUE}
    return table
