"""The base of every trainer of this package."""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import distributed, nn

from nnunet_attn import __version__
from nnunet_attn.architectures.registry import network_named
from nnunet_attn.training.extent import extent_of
from nnunet_attn.training.gates import GateHistory, describe_schedule, gate_values, schedule_gates
from nnunet_attn.training.labels import refuse_body_masks, refuse_without_foreground
from nnunet_attn.training.losses import CrossEntropy, Dice, LossTerms, halving_weights
from nnunet_attn.training.network import build_from_plans, build_without_weights, plans_options
from nnunet_attn.training.nonfinite import NonFiniteLossError, describe, describe_ranks
from nnunet_attn.training.precision import Precision, carry_precision
from nnunet_attn.training.predictor import plain_network
from nnunet_attn.training.randomness import (
    NETWORK,
    PROCESS,
    TRAINING_WORKERS,
    VALIDATION_WORKERS,
    derived_seeds,
    seed_process,
    start_workers,
    without_workers,
)
from nnunet_attn.training.recipes import Recipe, build_optimizer, chosen_recipe, spare_from_weight_decay
from nnunet_attn.training.validated import NotesCheckpoint


class AttentionTrainer(NotesCheckpoint):
    """nnU-Net's trainer for a network of the registry, with what the suffixes of its name ask for.

    A leaf sets `network_name` and, for an ablation, `network_options`. It may set a `recipe` (None is nnU-Net's own),
    `loss_terms`, `flips_only` (mirroring, along the last axis or along all of them, is the only augmentation) and
    `gates_frozen_epochs` (for a network with gates). All other class attributes are set by suffixes
    (`nnunet_attn.training.variants`). Configurations, splits and inference are nnU-Net's own, and so are losses and
    augmentation unless set. A network with `deep_supervision_scales` is supervised at these, with the weights that its
    `deep_supervision_weights` give them, if it has such; one with `no_weight_decay()` is trained without decay of these
    parameters.

    Raises:
        ValueError: At construction, before anything is written, if the network cannot work on the configuration.
    """

    network_name: ClassVar[str]
    network_options: ClassVar[Mapping[str, Any]] = {}
    recipe: ClassVar[Recipe | None] = None
    loss_terms: ClassVar[LossTerms] = "dice_and_cross_entropy"
    flips_only: ClassVar[bool | Literal["all axes"]] = False
    gates_frozen_epochs: ClassVar[int] = 10

    epochs: ClassVar[int | None] = None
    iterations_per_epoch: ClassVar[int | None] = None
    epochs_between_saves: ClassVar[int | None] = None
    reads_labels: ClassVar[bool] = True
    mirroring: ClassVar[bool] = True
    augmentation: ClassVar[bool] = True
    precision: ClassVar[Precision] = "amp"
    optimizer_name: ClassVar[Literal["sgd", "adamw"] | None] = None
    learning_rate: ClassVar[float | None] = None
    seed: ClassVar[int | None] = None

    # nnU-Net gives these their values in initialize()
    network: Any
    optimizer: Any
    loss: Any

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's own signature
    ):
        network = self._check(plans, configuration, dataset_json, device)
        super().__init__(plans, configuration, fold, dataset_json, device)
        self._position_axes: tuple[int, ...] = tuple(getattr(network, "position_axes", ()))
        self._network_scales: list[list[float]] | None = getattr(network, "deep_supervision_scales", None)
        self._network_weights: tuple[float, ...] | None = getattr(network, "deep_supervision_weights", None)
        if self._network_scales is not None:
            self.enable_deep_supervision = len(self._network_scales) > 1
        if self.learning_rate is not None:
            self.initial_lr = self.learning_rate
        self._recipe = chosen_recipe(self.recipe, self.optimizer_name, self.learning_rate)
        if self._recipe is not None:
            self.initial_lr, self.weight_decay = self._recipe.learning_rate, self._recipe.weight_decay
        if self.epochs is not None:
            self.num_epochs = self.epochs
        if self.iterations_per_epoch is not None:
            self.num_iterations_per_epoch = self.iterations_per_epoch
            # nnU-Net's proportion of 250 to 50
            self.num_val_iterations_per_epoch = max(1, round(self.iterations_per_epoch / 5))
        # nnU-Net's proportion of 50 epochs in 1000, so that a short training can be resumed too
        self.save_every = self.epochs_between_saves or min(self.save_every, max(1, self.num_epochs // 20))
        if self.precision != "amp":
            self.grad_scaler = None
        self._iteration = 0
        self._gate_history: GateHistory | None = None

    @classmethod
    def _check(cls, plans: dict, configuration: str, dataset_json: dict, device: torch.device) -> nn.Module:
        if not hasattr(cls, "network_name"):
            raise ValueError(
                f"{cls.__name__} is the base of trainers and has no network: use one that sets network_name"
            )
        if cls.precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
            raise ValueError(
                f"{cls.__name__}: {torch.cuda.get_device_name()} has no bfloat16; use _fp32 or no such suffix"
            )
        if cls.reads_labels:
            refuse_body_masks(dataset_json)
        plans_manager = PlansManager(plans)
        manager = plans_manager.get_configuration(configuration)
        return build_without_weights(
            network_named(cls.network_name),
            manager,
            determine_num_input_channels(plans_manager, manager, dataset_json),
            plans_manager.get_label_manager(dataset_json).num_segmentation_heads,
            True,
            cls.network_options,
            extent_of(plans_manager, manager),
        )

    @classmethod
    def build_network_architecture(  # pyright: ignore[reportIncompatibleMethodOverride] - reads the class's options
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Build the network, in its precision; nnU-Net calls this for training and for inference.

        Raises:
            ValueError: If the network cannot work on this configuration.
        """
        network = build_from_plans(
            network_named(cls.network_name),
            configuration_manager,
            num_input_channels,
            num_output_channels,
            enable_deep_supervision,
            cls.network_options,
            extent_of(plans_manager, configuration_manager),
        )
        return carry_precision(network, cls.precision)

    def initialize(self) -> None:
        """Build network, optimiser and loss; with a seed, the initial weights follow from it."""
        if self.seed is not None:
            # all ranks start from one network
            seed_process(derived_seeds(self.seed, NETWORK, rank=0, epoch=0)[0])
        super().initialize()

    def configure_optimizers(self) -> tuple:
        """Return optimiser and learning rate schedule of the recipe, nnU-Net's own without one."""
        network = self._plain_network()
        if self._recipe is None:
            optimizer, schedule = super().configure_optimizers()
        else:
            optimizer, schedule = build_optimizer(network, self._recipe, self.num_epochs, self._val_losses)
        spare_from_weight_decay(optimizer, network)
        return optimizer, schedule

    def _val_losses(self) -> list[float]:
        return self.logger.get_value("val_losses", step=None)

    def _build_loss(self) -> Any:
        """Return nnU-Net's loss, or cross-entropy or Dice alone; all logits that a network names count in it."""
        loss: Any = super()._build_loss()
        if self.loss_terms != "dice_and_cross_entropy":
            regions, ignore_label = self.label_manager.has_regions, self.label_manager.ignore_label
            alone = self.loss_terms == "cross_entropy"
            single = CrossEntropy(regions, ignore_label) if alone else Dice(regions, ignore_label, self.is_ddp)
            loss = DeepSupervisionWrapper(single, loss.weight_factors) if self.enable_deep_supervision else single
        if self.enable_deep_supervision and self._network_scales is not None:
            # nnU-Net gives the coarsest logits no weight, but these have been asked for
            loss.weight_factors = self._network_weights or halving_weights(len(self._network_scales))
        return loss

    def _get_deep_supervision_scales(self) -> list | None:
        if self.enable_deep_supervision and self._network_scales is not None:
            return [list(scale) for scale in self._network_scales]
        return super()._get_deep_supervision_scales()

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Switch the network between a list of logits and full-resolution logits only."""
        network: Any = self._plain_network()
        # after the validation nnU-Net switches on what was not on before
        getattr(network, "decoder", network).deep_supervision = enabled and self.enable_deep_supervision

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple:
        """Return nnU-Net's choice, without the mirroring (at inference too) that the trainer does without."""
        rotation, dummy_2d, initial_patch_size, mirror_axes = (
            super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        if self.flips_only or not self.augmentation:
            initial_patch_size = self.configuration_manager.patch_size
        if self.flips_only is True:
            mirror_axes = self.inference_allowed_mirroring_axes = (len(initial_patch_size) - 1,)
        if not (self.mirroring and self.augmentation):
            mirror_axes = None
            self.inference_allowed_mirroring_axes = None
        return rotation, dummy_2d, initial_patch_size, mirror_axes

    @classmethod
    def get_training_transforms(  # pyright: ignore[reportIncompatibleMethodOverride] - reads the class's suffixes
        cls,
        patch_size: Any,
        rotation_for_DA: Any,
        deep_supervision_scales: Any,
        mirror_axes: Any,
        do_dummy_2d_data_aug: bool,
        use_mask_for_norm: Any = None,
        is_cascaded: bool = False,
        foreground_labels: Any = None,
        regions: Any = None,
        ignore_label: Any = None,
    ) -> BasicTransform:
        """Return nnU-Net's augmentation, or only flips, or with `_NoDA` only what validation does."""
        if cls.flips_only or not cls.augmentation:
            plain = cls.get_validation_transforms(
                deep_supervision_scales, is_cascaded, foreground_labels, regions, ignore_label
            )
            return ComposeTransforms([MirrorTransform(mirror_axes), plain]) if mirror_axes else plain
        return nnUNetTrainer.get_training_transforms(
            patch_size,
            rotation_for_DA,
            deep_supervision_scales,
            mirror_axes,
            do_dummy_2d_data_aug,
            use_mask_for_norm,
            is_cascaded,
            foreground_labels,
            regions,
            ignore_label,
        )

    def get_tr_and_val_datasets(self) -> tuple:
        """Return nnU-Net's data sets for training and validation; cases without any foreground are refused."""
        train, val = super().get_tr_and_val_datasets()
        if self.reads_labels:
            refuse_without_foreground(self.plans_manager.dataset_name, train, self.label_manager)
        return train, val

    def get_dataloaders(self) -> tuple:
        """Return nnU-Net's data loaders; with a seed, every worker's random stream follows from it.

        Workers deliver in the order in which they finish, so that batches are bit-repeatable only without workers
        (`nnUNet_n_proc_DA=0`). A resumed training draws other numbers than its first part did.
        """
        if self.seed is None:
            return super().get_dataloaders()
        seed_process(self._derived_seeds(PROCESS)[0])
        count = get_allowed_n_proc_DA()
        with without_workers():
            train, val = super().get_dataloaders()
        if count == 0:
            return train, val
        # nnU-Net starts its workers unseeded, so they are started here, in its numbers
        seeds, val_seeds = (
            self._derived_seeds(TRAINING_WORKERS, count),
            self._derived_seeds(VALIDATION_WORKERS, max(1, count // 2)),
        )
        pin = self.device.type == "cuda"
        return (
            start_workers(train.data_loader, seeds, max(6, count // 2), pin),
            start_workers(val.data_loader, val_seeds, max(3, count // 4), pin),
        )

    def _derived_seeds(self, stream: int, count: int = 1) -> list[int]:
        assert self.seed is not None
        return derived_seeds(self.seed, stream, self.local_rank, self.current_epoch, count)

    def on_train_start(self) -> None:
        """Start as nnU-Net does, and say in the log what is being trained."""
        super().on_train_start()
        row = network_named(self.network_name)
        options = {**plans_options(row, self.configuration_manager), **self.network_options}
        parameters = sum(parameter.numel() for parameter in self._plain_network().parameters())
        recipe = self._recipe.described(self.num_epochs) if self._recipe else f"nnU-Net's, {self.initial_lr:g}"
        self.print_to_log_file(
            f"nnunet-attn {__version__}: {row.name}, {row.title} ({row.source}); {parameters:,} parameters; "
            f"recipe: {recipe}; loss: {self.loss_terms}; "
            f"flips only: {self.flips_only}; "
            f"options: {options or 'none'}; precision: {self.precision}; "
            f"seed: {'none' if self.seed is None else self.seed}"
        )
        if gates := describe_schedule(self._plain_network(), self.gates_frozen_epochs, self.num_epochs):
            self.print_to_log_file(gates)

    def on_train_epoch_start(self) -> None:
        """Start an epoch as nnU-Net does; the gates of a network, if it has any, learn or not by the epoch."""
        super().on_train_epoch_start()
        self._iteration = 0
        schedule_gates(self._plain_network(), self.optimizer, self.current_epoch, self.gates_frozen_epochs)

    def on_epoch_end(self) -> None:
        """End an epoch as nnU-Net does; a network's gates are written down before, so that no checkpoint is ahead."""
        gates = gate_values(self._plain_network()) if self.local_rank == 0 else {}
        if gates:
            if self._gate_history is None:
                self._gate_history = GateHistory(
                    Path(str(self.output_folder)),
                    self.gates_frozen_epochs,
                    self.current_epoch,
                    list(gates),
                    self.print_to_log_file,
                )
            self._gate_history.add(self.current_epoch, gates)
        super().on_epoch_end()

    def train_step(self, batch: dict) -> dict:
        """Do one iteration as nnU-Net does, unless the loss is not finite: then stop before the weights change.

        Raises:
            NonFiniteLossError: On all ranks, if the loss of any rank is NaN or infinite, or, where no loss scaling
                takes care of it, the gradient.
        """
        data = batch["data"].to(self.device, non_blocking=True)
        target = batch["target"]
        if isinstance(target, list):
            target = [level.to(self.device, non_blocking=True) for level in target]
        else:
            target = target.to(self.device, non_blocking=True)

        self.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            loss = self.loss(self._logits(data), self._target(target))
        finite = torch.isfinite(loss.detach()).all().float()
        own_loss_finite = finite.clone()
        if self.is_ddp:
            distributed.all_reduce(finite, op=distributed.ReduceOp.MIN)
        if self.grad_scaler is not None:
            self.grad_scaler.scale(loss).backward()
            self.grad_scaler.unscale_(self.optimizer)
        else:
            loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), 12)
        if self.grad_scaler is None:
            # a scaler skips a step whose gradient overflows; without one it would reach the weights
            finite = finite * torch.isfinite(norm).float()
        # read only here, where nnU-Net waits for the device anyway: the backward pass is under way by then
        if not finite:
            self._stop(data, bool(own_loss_finite), batch.get("keys", ()))
        if self.grad_scaler is not None:
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()
        else:
            self.optimizer.step()
        self._iteration += 1
        return {"loss": loss.detach().cpu().numpy()}

    def _logits(self, data: torch.Tensor) -> Any:
        return self.network(data)

    def _target(self, target: Any) -> Any:
        # as the loss compares it with what _logits returns
        return target

    def _stop(self, data: torch.Tensor, own_loss_finite: bool, keys: Any) -> NoReturn:
        what = "gradient" if own_loss_finite else "loss"
        with self._autocast():
            text = describe(self._plain_network(), data, what, self.current_epoch, self._iteration, keys)
        if self.is_ddp:
            text = describe_ranks(text, not own_loss_finite)
        text += ". The last checkpoint is kept. Try the suffix _bf16 or _fp32, or a lower learning rate."
        self.print_to_log_file(text)
        raise NonFiniteLossError(text)

    def save_checkpoint(self, filename: str) -> None:
        """Write a checkpoint under a temporary name, then rename it: a kill leaves the old one whole."""
        partial = f"{filename}.partial"
        super().save_checkpoint(partial)
        if self.local_rank == 0 and not self.disable_checkpointing:
            os.replace(partial, filename)

    def _autocast(self) -> AbstractContextManager:
        amp = self.device.type == "cuda" and self.precision == "amp"
        return torch.autocast("cuda") if amp else nullcontext()

    def _plain_network(self) -> nn.Module:
        return plain_network(self.network)
