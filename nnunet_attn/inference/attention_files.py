"""The files of attention maps: float NIfTI and 16-bit PNG in the image's own geometry, and what the JSON holds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import NDArray
from skimage.io import imsave

from nnunet_attn.inference.attention_geometry import Array, is_picture, sitk_image

GREY_PER_UNIT = 1000
"""Grey values of a PNG for an attention of 1.0, which is uniform."""

NO_VALUE = 65535
"""Grey value of a PNG where there is no attention; the largest attention that it can hold is 65.534."""


def write_map(values: Array, stem: Path, properties: Mapping[str, Any], all_heads: bool) -> list[Path]:
    """Write one stage's maps (heads *array) and return the files.

    `<stem>.nii.gz` has the mean of the heads; with `all_heads`, `<stem>_heads.nii.gz` has them along a last axis more.
    An image of pixels gets `<stem>.png`, and `<stem>_head<h>.png` for each head, from 1.

    Args:
        values: The maps, axes as nnU-Net's reader has them.
        stem: Path of the files without their endings.
        properties: What nnU-Net's reader returned for the image.
        all_heads: Whether to write the heads too.
    """
    mean = values.mean(0, dtype=np.float32)
    if is_picture(properties, mean.shape):
        heads = enumerate(values if all_heads else (), start=1)
        pictures = {f"{stem.name}.png": mean, **{f"{stem.name}_head{number}.png": head for number, head in heads}}
        for name, head in pictures.items():
            imsave(stem.with_name(name), grey(head[0]), check_contrast=False)
        return [stem.with_name(name) for name in pictures]
    files = [stem.with_name(f"{stem.name}.nii.gz")]
    _write_nifti(mean[None], files[0], properties, False)
    if all_heads:
        files.append(stem.with_name(f"{stem.name}_heads.nii.gz"))
        _write_nifti(values, files[1], properties, True)
    return files


def grey(values: Array) -> NDArray[np.uint16]:
    """Return attention as grey values of 16 bits."""
    scaled = np.clip(np.rint(values * GREY_PER_UNIT), 0, NO_VALUE - 1)
    return np.where(np.isnan(scaled), NO_VALUE, scaled).astype(np.uint16)


def _write_nifti(values: Array, file: Path, properties: Mapping[str, Any], stacked: bool) -> None:
    """Write maps (heads *array): with `stacked`, heads along an axis more, behind those of the image."""
    if "nibabel_stuff" in properties:
        nibabel.save(_nibabel_image(values, properties["nibabel_stuff"], stacked), file)  # pyright: ignore[reportPrivateImportUsage]
        return
    images = [sitk_image(head, properties) for head in values]
    sitk.WriteImage(sitk.JoinSeries(images) if stacked else images[0], str(file), True)


def _nibabel_image(values: Array, stuff: Mapping[str, Any], stacked: bool) -> nibabel.Nifti1Image:  # pyright: ignore[reportPrivateImportUsage]
    voxels = values.transpose(3, 2, 1, 0)
    voxels = voxels if stacked else voxels[..., 0]
    original = stuff["original_affine"]
    image = nibabel.Nifti1Image(voxels, affine=stuff.get("reoriented_affine", original))  # pyright: ignore[reportPrivateImportUsage]
    if "reoriented_affine" in stuff:
        back: Any = ornt_transform(axcodes2ornt("RAS"), io_orientation(original))
        image = image.as_reoriented(back)
    return image


def label_means(
    values: Array, labels: NDArray[np.integer[Any]], names: Mapping[str, Sequence[int]], crop: NDArray[np.bool_]
) -> dict[str, dict[str, Any]]:
    """Return the mean attention inside and outside of each label, of every head and of their mean.

    Voxels that the network did not see, outside `crop` or with NaN, count nowhere; a mean over nothing is None.

    Args:
        values: (heads *array) The maps.
        labels: (*array) The predicted segmentation.
        names: From a label's name to its values in the segmentation; a region has several.
        crop: (*array) The voxels that the network saw.
    """
    seen = crop & ~np.isnan(values).any(0)
    found = {}
    for name, numbers in names.items():
        inside = np.isin(labels, list(numbers))
        row: dict[str, Any] = {"voxels": int(inside.sum())}
        for where, mask in (("inside", seen & inside), ("outside", seen & ~inside)):
            heads = [float(head[mask].mean(dtype=np.float64)) for head in values] if mask.any() else None
            row[where] = float(np.mean(heads)) if heads else None
            row[f"{where}_heads"] = heads
        found[name] = row
    return found


def label_names(dataset_json: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return the labels and regions of a data set, without background and the label to ignore."""
    named = {
        name: list(value) if isinstance(value, list | tuple) else [int(value)]
        for name, value in dataset_json["labels"].items()
    }
    return {name: numbers for name, numbers in named.items() if name != "ignore" and numbers != [0]}
