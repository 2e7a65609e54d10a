"""Where a crop lies in its volume, for networks that read it: in training, in validation and in nnU-Net's predictor.

A network with `position_axes` takes, behind its image channels, one channel for each of these axes with the voxels'
coordinates along it relative to the volume's centre: ramps, or a constant over the crop. Nothing of them is on disk:
the data set adds the ramps when a part of a volume is read, augmentation never sees them, and behind it stands the
position of the crop's centre. The final validation gets the ramps with the volume, all other predictions from
`nnunet_attn.training.predictor`.
"""

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from numpy.typing import NDArray
from torch import Tensor

from nnunet_attn.training.extent import plans_with_extent
from nnunet_attn.training.predictor import centred_coordinates, install
from nnunet_attn.training.trainer import AttentionTrainer

install()

Axes = tuple[int, ...]


class PlacedVolume:
    """The image of a case with one channel of coordinates an axis, which are made when a part of it is read.

    (c d h w) -> (c + axes d h w), float32; reading takes slices, as nnU-Net's loader and validation give them.

    Args:
        image: (c d h w) A NumPy array, memory-mapped or not, or a blosc2 one.
        axes: Axes of the volume, 0 to 2.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, image: Any, axes: Axes) -> None:
        self.image = image
        self.axes = axes
        self.shape: tuple[int, ...] = (image.shape[0] + len(axes), *image.shape[1:])

    @property
    def ndim(self) -> int:
        """Number of axes, with that of the channels."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: slice | tuple[slice, ...]) -> NDArray[np.float32]:
        """Return a part as an array of its own.

        Raises:
            TypeError: If it is not asked for by slices, at most one an axis.
        """
        keys = key if isinstance(key, tuple) else (key,)
        if len(keys) > self.ndim or not all(isinstance(part, slice) for part in keys):
            raise TypeError(f"a volume with positions is read by at most {self.ndim} slices, got {key!r}")
        channels, *space = (*keys, *[slice(None)] * (self.ndim - len(keys)))
        image = self.image[(slice(None), *space)]
        part = np.empty((self.shape[0], *image.shape[1:]), dtype=self.dtype)
        part[: len(image)] = image
        for channel, axis in zip(part[len(image) :], self.axes, strict=True):
            along = centred_coordinates(self.shape[1 + axis])[space[axis]]
            channel[:] = along.reshape([-1 if other == axis else 1 for other in range(len(space))])
        return part[channels]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("a volume with positions is made when it is read, which is a copy")
        return self[:].astype(dtype or self.dtype, copy=False)


class PlacedCases:
    """For classes of nnU-Net's data sets: every image is a `PlacedVolume`. `placed_dataset` makes such classes."""

    position_axes: Axes
    stock_class: type[nnUNetBaseDataset]

    def load_case(self, identifier: str) -> tuple[PlacedVolume, Any, Any, dict[str, Any]]:
        """Return image, segmentation, segmentation of the previous stage and properties of a case."""
        stock: Any = super()
        image, segmentation, previous, properties = stock.load_case(identifier)
        return PlacedVolume(image, self.position_axes), segmentation, previous, properties

    def __reduce__(self) -> tuple[Any, ...]:
        # a worker process that has been spawned cannot import the class, but make it anew
        return _placed_copy, (self.stock_class, self.position_axes, self.__dict__)


@cache
def placed_dataset(stock_class: type[nnUNetBaseDataset], axes: Axes) -> type[nnUNetBaseDataset]:
    """Return the class of a data set whose cases are read by another one and get channels of coordinates."""
    members = {"position_axes": axes, "stock_class": stock_class, "__doc__": PlacedCases.__doc__}
    return type(f"Placed_{stock_class.__name__}", (PlacedCases, stock_class), members)


def _placed_copy(stock_class: type[nnUNetBaseDataset], axes: Axes, state: dict[str, Any]) -> nnUNetBaseDataset:
    made: Any = object.__new__(placed_dataset(stock_class, axes))
    vars(made).update(state)
    return made


def centre_of_crop(coordinates: Tensor, axes: Axes) -> Tensor:
    """Return the position of a crop's centre along each axis, from the crop's channels of coordinates.

    (axes d h w) -> (axes); the crop may reach out of the volume, where coordinates are 0.

    Raises:
        ValueError: If there is not one channel an axis.
    """
    if len(coordinates) != len(axes):
        raise ValueError(f"{len(coordinates)} channels of coordinates for {len(axes)} axes")
    positions = []
    for channel, axis in zip(coordinates, axes, strict=True):
        # of a volume that is one voxel thin, only one of the two central planes is inside
        middle = channel[tuple(slice((size - 1) // 2, size // 2 + 1) for size in channel.shape)].movedim(axis, 0)
        lines = middle.flatten(1).T
        positions.append(lines[lines.abs().sum(1).argmax()].mean())
    return torch.stack(positions)


class PlacedTransforms(BasicTransform):
    """nnU-Net's transforms of the image alone, and behind it the position of the crop's centre in constant channels.

    image: (c + axes *crop) -> (c + axes *patch). What nnU-Net does about the crop's centre, rotation, scaling and
    mirroring, leaves the position as it is.

    Args:
        pipeline: The transforms of the image (c *crop) and its segmentation.
        axes: Axes of the position, not empty.
    """

    def __init__(self, pipeline: BasicTransform, axes: Axes) -> None:
        super().__init__()
        self.pipeline = pipeline
        self.axes = axes

    def __call__(self, **data_dict: Any) -> dict[str, Any]:
        """Return the transformed sample."""
        crop = data_dict["image"]
        image_channels = len(crop) - len(self.axes)
        position = centre_of_crop(crop[image_channels:], self.axes)
        sample = self.pipeline(**{**data_dict, "image": crop[:image_channels]})
        image = sample["image"]
        places = position.to(image.dtype).view(-1, *[1] * (image.ndim - 1)).expand(-1, *image.shape[1:])
        return {**sample, "image": torch.cat([image, places])}


class PositionTrainer(AttentionTrainer):
    """Trainer of a network that reads where its crop lies in the volume.

    The extent of the data set's volumes, which the network's grid is made from, goes into the plans that nnU-Net
    writes beside the results (`nnunet_attn.fine_extent.<configuration>`); those of the data set stay as they are. Where
    the network has no `position_axes`, because one crop holds a volume, everything else is `AttentionTrainer`'s.

    Raises:
        ValueError: At construction, before anything is written, as `AttentionTrainer`, or if the extent cannot be
            worked out.
    """

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's own signature
    ):
        placed_plans, self._extent_line = plans_with_extent(plans, configuration, type(self).__name__)
        super().__init__(placed_plans, configuration, fold, dataset_json, device)
        if self._position_axes:
            # The getters belong to the class, which does not know the axes; nnU-Net asks them of the trainer itself.
            for name in ("get_training_transforms", "get_validation_transforms"):
                setattr(self, name, _placed_getter(getattr(self, name), self._position_axes))

    @property
    def dataset_class(self) -> Any:
        """The class of the data set that nnU-Net has found, with channels of coordinates if the network reads them."""
        return self._dataset_class

    @dataset_class.setter
    def dataset_class(self, found: Any) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        if found is not None and self._position_axes and not issubclass(found, PlacedCases):
            found = placed_dataset(found, self._position_axes)
        self._dataset_class = found

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple:
        """Return nnU-Net's choice, with crops that have the centre of the patch where nothing is rotated or scaled.

        Without it, they could lie half a voxel beside each other: a crop is then one voxel larger than nnU-Net's.
        """
        rotation, dummy_2d, size, mirror_axes = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        if self._position_axes:
            patch_size = self.configuration_manager.patch_size
            size = [int(crop + (crop - patch) % 2) for crop, patch in zip(size, patch_size, strict=True)]
        return rotation, dummy_2d, size, mirror_axes

    def on_train_start(self) -> None:
        """Start as other trainers do, and say in the log how large volumes are and which positions are read."""
        super().on_train_start()
        axes = ", ".join(map(str, self._position_axes)) or "none, one crop holds a volume"
        grid = getattr(self._plain_network(), "grid", None)
        cells = f"sub-volumes: {' x '.join(map(str, grid))}; " if grid else ""
        self.print_to_log_file(f"{self._extent_line}; {cells}axes along which the network reads its position: {axes}")


def _placed_getter(getter: Callable[..., BasicTransform], axes: Axes) -> Callable[..., BasicTransform]:
    @wraps(getter)
    def get(*arguments: Any, **keywords: Any) -> BasicTransform:
        return PlacedTransforms(getter(*arguments, **keywords), axes)

    return get
