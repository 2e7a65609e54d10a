"""Training of the patch transformer: crops of several cells, of which those with a complete context count."""

from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from typing import Any, ClassVar

import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as stock
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import distributed, nn

from nnunet_attn.architectures.registry import Network, network_named
from nnunet_attn.replacing import replaced
from nnunet_attn.training.extent import PLANS_KEY, plans_of_results
from nnunet_attn.training.network import trainer_options
from nnunet_attn.training.patch_memory import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_CELLS,
    blocks_that_fit,
    chosen_sizes,
    free_bytes,
)
from nnunet_attn.training.trainer import AttentionTrainer

AUTO = "auto"
CELLS, BATCH_SIZE = "train_cells", "batch_size"
_DEFAULTS: Mapping[str, int] = {CELLS: DEFAULT_CELLS, BATCH_SIZE: DEFAULT_BATCH_SIZE}


class PatchTrainer(AttentionTrainer):
    """Trainer of a network that labels the centre patch of each block, such as `PatchTransformer`.

    A crop has (m + n - 1) patches along each axis, n being those of a block. The loss is that of the m patches along
    each axis whose block lies inside of the crop, so that every voxel counts with the context that the network has. A
    crop reaches as far out of its image as the context of the image's border does. `train_cells` (m) and `batch_size`
    come from the plans, beside the options of the network: numbers, 4 and 4 without an entry, or "auto", by the free
    memory. What is used is written into the plans of the results. The final validation predicts by `GridPredictor`.

    A leaf may set `trainer_settings`: what its name stands for; the plans may not say otherwise.

    Raises:
        ValueError: At construction, before anything is written, as `AttentionTrainer`; or if a setting is neither a
            number of at least 1 nor "auto", contradicts the trainer's name, or a batch has fewer crops than there are
            processes.
    """

    trainer_settings: ClassVar[Mapping[str, int]] = {}

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's own signature
    ):
        chosen, self._sizes_line = self._plans_with_sizes(plans, configuration, dataset_json, device)
        super().__init__(chosen, configuration, fold, dataset_json, device)
        sizes = trainer_options(network_named(self.network_name), self.configuration_manager)
        self.train_cells: int = sizes[CELLS]
        # nnU-Net divides it among the processes, and logs it
        self.configuration_manager.configuration["batch_size"] = sizes[BATCH_SIZE]

    @classmethod
    def _check(cls, plans: dict, configuration: str, dataset_json: dict, device: torch.device) -> nn.Module:
        network = super()._check(plans, configuration, dataset_json, device)
        cls.wanted_sizes(PlansManager(plans).get_configuration(configuration))
        return network

    @classmethod
    def wanted_sizes(cls, configuration: ConfigurationManager) -> dict[str, Any]:
        """Return `train_cells` and `batch_size` as plans and trainer say, "auto" where they are yet to be chosen.

        Raises:
            ValueError: If one is neither a number of at least 1 nor "auto", or contradicts the trainer's name.
        """
        return _wanted_sizes(network_named(cls.network_name), configuration, cls.trainer_settings)

    @classmethod
    def _plans_with_sizes(
        cls, plans: dict[str, Any], configuration: str, dataset_json: dict, device: torch.device
    ) -> tuple[dict[str, Any], str]:
        """Return a copy of plans that holds the numbers used, and a line for the log of where they are from."""
        network: Any = cls._check(plans, configuration, dataset_json, device)
        row = network_named(cls.network_name)
        plans = deepcopy(plans)
        manager = PlansManager(plans)
        wanted = cls.wanted_sizes(manager.get_configuration(configuration))
        source = "as the trainer and the plans say"
        processes = distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
        if AUTO in wanted.values():
            earlier = _sizes_of_results(row, manager, configuration, cls.__name__)
            free, earlier = _agreed(free_bytes(device), earlier)
            on_gpu = device.type == "cuda"
            fitting = blocks_that_fit(network, free, mixed=on_gpu and cls.precision != "fp32")
            given = {name: None if value == AUTO else value for name, value in wanted.items()}
            if earlier:
                given = {name: earlier.get(name) if value is None else value for name, value in given.items()}
            dims = len(network.patch_embed_size)
            chosen = chosen_sizes(given[CELLS], given[BATCH_SIZE], fitting, dims, on_gpu, processes)
            wanted = dict(zip((CELLS, BATCH_SIZE), chosen, strict=True))
            source = f"chosen for {free / 2**30:.1f} GiB of free memory, which hold about {fitting} blocks"
            source = "as in earlier results" if earlier else source
        if wanted[BATCH_SIZE] < processes:
            raise ValueError(
                f"plans: {PLANS_KEY}.{row.name}.{BATCH_SIZE} is {wanted[BATCH_SIZE]}, but {processes} processes share "
                f"a batch: set it to {processes} or more, or train on fewer GPUs"
            )
        entry: dict[str, Any] = deepcopy(manager.get_configuration(configuration).configuration.get(PLANS_KEY, {}))
        entry.setdefault(row.name, {}).update(wanted)
        # of a configuration that inherits, the entry hides what it inherits: it is whole
        plans["configurations"][configuration][PLANS_KEY] = entry
        return plans, source

    @property
    def train_patch_size(self) -> tuple[int, ...]:
        """Voxels of a training crop along each axis."""
        network: Any = self._plain_network()
        sizes = zip(network.patch_embed_size, network.neighbourhood, strict=True)
        return tuple((self.train_cells + count - 1) * size for size, count in sizes)

    @property
    def _halo(self) -> tuple[int, ...]:
        network: Any = self._plain_network()
        return tuple(network.halo)

    def get_dataloaders(self) -> tuple:
        """Return nnU-Net's data loaders, of crops of `train_patch_size` that reach out of the image by their halo."""
        planned = self.configuration_manager
        loader = partial(_padding_loader, [2 * voxels for voxels in self._halo])
        self.configuration_manager = ConfigurationManager(
            {**planned.configuration, "patch_size": list(self.train_patch_size)}
        )
        try:
            with replaced(stock, "nnUNetDataLoader", loader):
                return super().get_dataloaders()
        finally:
            self.configuration_manager = planned

    def _logits(self, data: torch.Tensor) -> Any:
        return self.network(data, valid=True)

    def _target(self, target: torch.Tensor) -> torch.Tensor:
        """Return the part of a target that a crop's complete blocks label: (b c *crop) -> (b c *inner)."""
        sizes = zip(target.shape[2:], self._halo, strict=True)
        return target[(..., *(slice(halo, voxels - halo) for voxels, halo in sizes))]

    def validation_step(self, batch: dict) -> dict:
        """Do nnU-Net's validation of one batch, on the part that a crop's complete blocks label."""
        labelled = {**batch, "target": self._target(batch["target"])}
        network = self.network
        self.network = partial(network, valid=True)
        try:
            return super().validation_step(labelled)
        finally:
            self.network = network

    def on_train_start(self) -> None:
        """Start as other trainers do, and say in the log which crops are trained on."""
        super().on_train_start()
        network: Any = self._plain_network()
        crop, patch = (" x ".join(map(str, size)) for size in (self.train_patch_size, network.patch_embed_size))
        self.print_to_log_file(
            f"Patches of {patch} voxels; training crops of {crop} voxels, in which "
            f"{self.train_cells ** len(self._halo)} patches have a whole block around them and count "
            f"({CELLS}: {self.train_cells}); batch of {self.configuration_manager.batch_size}; sizes {self._sizes_line}"
        )

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Predict and evaluate the validation cases as nnU-Net does, by one exact pass over each image."""
        # it imports this package
        from nnunet_attn.inference.grid_predictor import GridPredictor

        with replaced(stock, "nnUNetPredictor", GridPredictor):
            super().perform_actual_validation(save_probabilities)


def _padding_loader(voxels: list[int], *arguments: Any, **keywords: Any) -> nnUNetDataLoader:
    # without it the image's border would never be more than context
    return nnUNetDataLoader(*arguments, **{**keywords, "pad_sides": voxels})


def _wanted_sizes(row: Network, configuration: ConfigurationManager, settings: Mapping[str, int]) -> dict[str, Any]:
    planned = trainer_options(row, configuration)
    for name, value in planned.items():
        whole = type(value) is int and value >= 1
        if not whole and value != AUTO:
            raise ValueError(
                f"plans: {PLANS_KEY}.{row.name}.{name} must be an integer of at least 1, or {AUTO!r}, got {value!r}"
            )
        if name in settings and value != settings[name]:
            raise ValueError(
                f"plans: {PLANS_KEY}.{row.name}.{name} is {value!r}, but this trainer stands for {settings[name]!r}; "
                "remove the entry or use another trainer"
            )
    return {**_DEFAULTS, **settings, **planned}


def _sizes_of_results(row: Network, plans: PlansManager, configuration: str, trainer_name: str) -> dict[str, int]:
    """Return the sizes that an earlier training of the same trainer has written down, nothing if there is none."""
    written = plans_of_results(plans, configuration, trainer_name)
    if written is None or configuration not in written.get("configurations", {}):
        return {}
    return trainer_options(row, PlansManager(written).get_configuration(configuration))


def _agreed(free: int, earlier: dict[str, int]) -> tuple[int, dict[str, int]]:
    """Return what all processes choose by: the least free memory, and what the first one has read."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return free, earlier
    gathered: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(gathered, (free, earlier))
    return min(each for each, _ in gathered), gathered[0][1]
