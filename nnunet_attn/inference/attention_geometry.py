"""From a preprocessed image back to the image of the file, for maps of real numbers and for single voxels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from numpy.typing import NDArray

from nnunet_attn.errors import InputError

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Geometry:
    """What nnU-Net's preprocessing did to an image: transposed, cropped to what is not 0, resampled.

    Args:
        plans: The plans, for the order of the axes.
        configuration: The configuration, for spacing and resampling.
        properties: What nnU-Net's preprocessor returned for the image.
        preprocessed_shape: Voxels of the preprocessed image, three axes.
    """

    plans: PlansManager
    configuration: ConfigurationManager
    properties: Mapping[str, Any]
    preprocessed_shape: tuple[int, ...]

    @property
    def _box(self) -> tuple[slice, ...]:
        return tuple(slice(int(low), int(high)) for low, high in self.properties["bbox_used_for_cropping"])

    @property
    def _cropped_shape(self) -> tuple[int, ...]:
        return tuple(map(int, self.properties["shape_after_cropping_and_before_resampling"]))

    @property
    def crop(self) -> NDArray[np.bool_]:
        """Voxels of the file's array that preprocessing kept; the network saw nothing of the others."""
        inside = np.zeros([int(size) for size in self.properties["shape_before_cropping"]], dtype=bool)
        inside[self._box] = True
        return inside.transpose(self.plans.transpose_backward)

    def to_file(self, values: Array, outside: float = 0.0) -> Array:
        """Return maps (heads *preprocessed) in the voxels of the file, (heads *array), axes as the reader has them.

        Resampled by the configuration's function for probabilities, which must not mix heads.

        Args:
            values: The maps; NaN where there is no value.
            outside: Value of the voxels that the crop left out.
        """
        resampled = self._resampled(values)
        whole = np.full((len(values), *map(int, self.properties["shape_before_cropping"])), outside, dtype=np.float32)
        whole[(slice(None), *self._box)] = resampled
        return whole.transpose([0, *(1 + axis for axis in self.plans.transpose_backward)])

    def _resampled(self, values: Array) -> Array:
        if tuple(values.shape[1:]) == self._cropped_shape:
            return values
        missing = np.isnan(values)
        if not missing.any():
            return self._resample(values)
        # a mean over what is there, and none where most is missing
        there = self._resample((~missing).astype(np.float32))
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = self._resample(np.where(missing, np.float32(0), values)) / there
        return np.where(there < 0.5, np.float32("nan"), mean).astype(np.float32)

    def _resample(self, values: Array) -> Array:
        own = [self.properties["spacing"][axis] for axis in self.plans.transpose_forward]
        target = self.configuration.spacing
        current = [own[0], *target] if len(target) < len(own) else target
        resample = self.configuration.resampling_fn_probabilities
        found = resample(values, self._cropped_shape, current, own)
        return np.asarray(found.cpu() if isinstance(found, torch.Tensor) else found, dtype=np.float32)

    def to_preprocessed(self, index: Sequence[int]) -> tuple[int, ...] | None:
        """Return the preprocessed voxel in which a voxel of the file's array has its middle; None outside the crop."""
        forward = self.plans.transpose_forward
        cropped = [index[axis] - box.start for axis, box in zip(forward, self._box, strict=True)]
        sizes = list(zip(cropped, self._cropped_shape, self.preprocessed_shape, strict=True))
        if any(not 0 <= at < size for at, size, _ in sizes):
            return None
        return tuple(min(new - 1, int((at + 0.5) * new / size)) for at, size, new in sizes)


def file_size(properties: Mapping[str, Any], shape: Sequence[int]) -> tuple[int, ...]:
    """Return an image's size in the order of its file's axes (i, j, k); two numbers for an image of two axes.

    Args:
        properties: What nnU-Net's reader returned for the image.
        shape: Shape of the array that it returned, without channels.
    """
    turned = np.abs(_file_to_reader(properties, shape)[:3, :3].T) @ np.array(shape[::-1])
    return tuple(map(int, turned))[: _file_axes(properties, shape)]


def array_index(voxel: Sequence[int], properties: Mapping[str, Any], shape: Sequence[int]) -> tuple[int, ...]:
    """Return where a voxel (i, j, k) of a file lies in the array that nnU-Net's reader made of it.

    SimpleITK, nibabel and ITK-SNAP have a file's axes in this order; the array has them in reverse. Of a picture, i is
    the column and j the row. All count from 0. Readers that turn images to one orientation are followed.

    Args:
        voxel: The voxel; the third number may be left out, or be 0, for an image of two axes.
        properties: What nnU-Net's reader returned for the image.
        shape: Shape of the array that it returned, without channels.
    Raises:
        InputError: If the image has another number of axes, or ends before the voxel.
    """
    size = file_size(properties, shape)
    given = tuple(voxel)
    flat = given[:2] if len(given) == 3 and given[2] == 0 and len(size) == 2 else given
    shown, written = " x ".join(map(str, size)), ",".join(map(str, given))
    if len(flat) != len(size):
        raise InputError(
            f"--voxel {written} has {len(given)} numbers, but the image is {shown} voxels: give {len(size)}"
        )
    if any(not 0 <= at < length for at, length in zip(flat, size, strict=True)):
        last = ",".join(str(length - 1) for length in size)
        raise InputError(f"--voxel {written} is outside the image of {shown} voxels; the last one is {last}")
    found = _file_to_reader(properties, shape) @ np.array((*flat, 0, 1) if len(flat) == 2 else (*flat, 1))
    return tuple(map(int, found[:3][::-1]))


def is_picture(properties: Mapping[str, Any], shape: Sequence[int]) -> bool:
    """Whether an image is of pixels alone, such as PNG, without millimetres."""
    return shape[0] == 1 and not {"sitk_stuff", "nibabel_stuff"} & properties.keys()


def sitk_image(values: NDArray[Any], properties: Mapping[str, Any]) -> sitk.Image:
    """Return an array, of two or three axes in the reader's order, as an image with the geometry of the file."""
    stuff = properties.get("sitk_stuff")
    if stuff is None:  # the reader knows no more than the spacing
        image = sitk.GetImageFromArray(values)
        image.SetSpacing([float(step) for step in properties["spacing"]][::-1])
        return image
    image = sitk.GetImageFromArray(values[0] if len(stuff["spacing"]) == 2 else values)
    image.SetSpacing(stuff["spacing"])
    image.SetOrigin(stuff["origin"])
    image.SetDirection(stuff["direction"])
    turned = stuff.get("original_orientation")
    return image if turned is None else sitk.DICOMOrient(image, turned)


def _file_axes(properties: Mapping[str, Any], shape: Sequence[int]) -> int:
    if "sitk_stuff" in properties:
        return len(properties["sitk_stuff"]["spacing"])
    return 2 if is_picture(properties, shape) else 3


def _file_to_reader(properties: Mapping[str, Any], shape: Sequence[int]) -> NDArray[np.int64]:
    """Return the matrix (4 4) from a voxel (i, j, k, 1) of the file to the image that the reader turned."""
    nibabel_stuff = properties.get("nibabel_stuff", {})
    sitk_stuff = properties.get("sitk_stuff", {})
    if "reoriented_affine" in nibabel_stuff:
        reader, file = nibabel_stuff["reoriented_affine"], nibabel_stuff["original_affine"]
    elif "original_orientation" in sitk_stuff:
        whole = np.zeros(shape, dtype=np.uint8)
        untouched = {key: value for key, value in sitk_stuff.items() if key != "original_orientation"}
        reader = _affine(sitk_image(whole, {"sitk_stuff": untouched}))
        file = _affine(sitk_image(whole, properties))
    else:
        return np.eye(4, dtype=np.int64)
    return np.rint(np.linalg.solve(reader, file)).astype(np.int64)


def _affine(image: sitk.Image) -> NDArray[np.float64]:
    found = np.eye(4)
    found[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    found[:3, 3] = image.GetOrigin()
    return found
