"""Prediction of whole images on a grid of patches, without overlapping tiles."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.helpers import dummy_context, empty_cache
from torch import Tensor
from tqdm import tqdm

from nnunet_attn.errors import InputError
from nnunet_attn.inference.checkpoints import not_of_the_network, wrong_files
from nnunet_attn.training.predictor import plain_network

# Cells of the 2D images that are computed together; their embeddings take 128 MiB at 1024 values each.
_CELLS_AT_A_TIME = 32768


def _is_lack_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.cuda.OutOfMemoryError) or "out of memory" in str(error).lower()


class GridPredictor(nnUNetPredictor):
    """nnU-Net's predictor, with one exact pass over the whole image for networks that have a `grid_forward`.

    Such a network labels each patch from a block around it, so that no overlap is needed: the logits are those of the
    whole image at once, without weighting. Mirroring is nnU-Net's. For all other networks this is nnU-Net's predictor.

    The grid begins at the first voxel of the image. A mirrored image has it begin at the other end: where the image's
    size is no multiple of the patch's, the mirrored predictions have another grid, which is as good as the first.

    Args:
        arguments: As nnU-Net's predictor takes them.
        phases: Positions of the grid that are averaged: 1, or 2 along each axis (8 in 3D, 4 in 2D), where the grid also
            begins half a patch before the image.
        keywords: As nnU-Net's predictor takes them.
    Raises:
        InputError: When the network is known, if it cannot have so many phases.
    """

    def __init__(self, *arguments: Any, phases: int = 1, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.phases = phases

    def initialize_from_trained_model_folder(
        self,
        model_training_output_dir: str,
        use_folds: Sequence[int | str] | str | None,
        checkpoint_name: str = "checkpoint_final.pth",
    ) -> None:
        """Load a model as nnU-Net does, and check it: the weights of all folds, and the phases.

        Raises:
            InputError: If a file is missing, damaged or of another network, or the phases do not fit. What else is
                wrong stays the error that it is.
        """
        folder = Path(model_training_output_dir)
        if use_folds is None:
            use_folds = self.auto_detect_available_folds(model_training_output_dir, checkpoint_name)
        folds = (use_folds,) if isinstance(use_folds, str) else tuple(use_folds)
        files = [folder / f"fold_{fold if fold == 'all' else int(fold)}" / checkpoint_name for fold in folds]
        weights, network = self.list_of_parameters, self.network
        try:
            super().initialize_from_trained_model_folder(model_training_output_dir, folds, checkpoint_name)  # pyright: ignore[reportArgumentType]
        except Exception as error:
            # nnU-Net keeps the weights, puts them into the network, and then keeps that
            if self.list_of_parameters is not weights and self.network is network:
                raise not_of_the_network(files[0], error) from error
            if (wrong := wrong_files(error, folder, files)) is not None:
                raise wrong from error
            raise
        loaded: Any = self.list_of_parameters
        for file, own in list(zip(files, loaded, strict=True))[:0:-1]:
            try:
                plain_network(self.network).load_state_dict(own)
            except (RuntimeError, ValueError) as error:
                raise not_of_the_network(file, error) from error
        if len(files) > 1:
            plain_network(self.network).load_state_dict(loaded[0])
        self._check_phases()

    def manual_initialization(self, *arguments: Any, **keywords: Any) -> None:
        """Take over a network as nnU-Net does, and check the phases."""
        super().manual_initialization(*arguments, **keywords)
        self._check_phases()

    def _check_phases(self) -> None:
        network: Any = plain_network(self.network)
        name = type(network).__name__
        if not hasattr(network, "grid_forward"):
            if self.phases != 1:
                raise InputError(f"--phases is {self.phases}, but {name} is not predicted on a grid; leave it out")
            return
        dims = len(network.patch_embed_size)
        if self.phases not in (1, 2**dims):
            raise InputError(f"--phases must be 1 or {2**dims} for {name} in {dims}D, got {self.phases}")

    @torch.inference_mode()
    def predict_sliding_window_return_logits(self, input_image: Tensor) -> Any:
        """Return the logits of a whole image, (c z y x) -> (classes z y x), in half precision as nnU-Net's.

        2D networks predict each slice z.

        Raises:
            RuntimeError: If a logit is too large for half precision.
        """
        if not hasattr(plain_network(self.network), "grid_forward"):
            return super().predict_sliding_window_return_logits(input_image)
        if not isinstance(input_image, Tensor) or input_image.ndim != 4:
            raise ValueError(f"expected a tensor of 4 axes (c, x, y, z), got {getattr(input_image, 'shape', None)}")
        self.network: Any = self.network.to(self.device)
        self.network.eval()
        empty_cache(self.device)
        mean = None
        with torch.autocast("cuda") if self.device.type == "cuda" else dummy_context():
            if self.perform_everything_on_device:
                try:
                    mean = self._average(input_image, self.device)
                except RuntimeError as error:
                    if not _is_lack_of_memory(error):
                        raise
                    print("Prediction on device was unsuccessful due to a lack of memory. Using the CPU.")  # noqa: T201
            if mean is None:
                empty_cache(self.device)
                mean = self._average(input_image, torch.device("cpu"))
        if torch.isinf(mean).any():
            raise RuntimeError("a logit is too large for half precision, in which nnU-Net keeps predictions")
        return mean

    def _average(self, image: Tensor, device: torch.device) -> Tensor:
        """Return the mean over phases and mirrored images in half precision, where too large logits are infinite."""
        network: Any = plain_network(self.network)
        flat = len(network.patch_embed_size) == 2
        # the slices of a volume are a batch
        images = image.transpose(0, 1) if flat else image[None]
        begins = [(0,) * len(network.patch_embed_size)]
        if self.phases > 1:
            begins = list(itertools.product(*((0, size // 2) for size in network.patch_embed_size)))
        passes = [(begin, axes) for begin in begins for axes in self._mirrored_axes(images.ndim)]
        total: Any = None
        for begin, axes in tqdm(passes, disable=not self.allow_tqdm):
            logits = torch.flip(self._whole(network, torch.flip(images, axes), begin, device), axes)
            total = logits if total is None else total.add_(logits)
        mean = (total / len(passes)).half()
        return mean.transpose(0, 1) if flat else mean[0]

    def _mirrored_axes(self, ndim: int) -> list[tuple[int, ...]]:
        """Return the axes of (b c *space) that each pass mirrors, none in the first."""
        allowed = self.allowed_mirroring_axes if self.use_mirroring else None
        if not allowed:
            return [()]
        if max(allowed) > ndim - 3:
            raise ValueError(f"mirroring axes {tuple(allowed)} do not fit an image of {ndim - 2} axes")
        axes = [axis + 2 for axis in allowed]
        return [some for count in range(len(axes) + 1) for some in itertools.combinations(axes, count)]

    @staticmethod
    def _whole(network: Any, images: Tensor, begin: tuple[int, ...], device: torch.device) -> Tensor:
        cells = math.prod(
            -(-voxels // size) for voxels, size in zip(images.shape[2:], network.patch_embed_size, strict=True)
        )
        parts = images.split(max(1, _CELLS_AT_A_TIME // cells))
        return torch.cat([network.grid_forward(part, offset=begin, device=device) for part in parts])
