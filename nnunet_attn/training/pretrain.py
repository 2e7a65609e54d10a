"""Pre-training without labels: a network learns to undo noise, or to fill in what is hidden, before it segments.

Source: Karimi et al., arXiv:2102.13645, for the patch transformer; here for every network of the registry.
"""

import json
import os
import random
import re
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform, ImageOnlyTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, distributed, nn

from nnunet_attn.architectures.blocks.patch_plan import planned_patch_embed_size
from nnunet_attn.errors import InputError
from nnunet_attn.training.pretrain_corruption import HIDDEN_SHARE, SNR_DB, hidden_cells, with_noise
from nnunet_attn.training.pretrain_drawing import Reconstruction, draw_reconstructions, middle_slices
from nnunet_attn.training.pretrain_measures import (
    MEASURES,
    ReconstructionError,
    Totals,
    reconstruction_measures,
    with_region,
)
from nnunet_attn.training.pretrain_weights import ENTRY, PRETRAINED_FILE, entry_of, write_pretrained
from nnunet_attn.training.randomness import VALIDATION_WORKERS, derived_seeds
from nnunet_attn.training.trainer import AttentionTrainer

Task = Literal["denoise", "inpaint"]
TASKS: dict[str, tuple[Task, ...]] = {
    "denoise": ("denoise",),
    "inpaint": ("inpaint",),
    "both": ("denoise", "inpaint"),
}
"""From what a trainer's name says to the tasks of its steps."""

REPORT_FILE = "reconstruction.json"
DRAWN_CASES = 3
_CORRUPTION = VALIDATION_WORKERS + 1  # a random stream of its own
_OUTPUT_LAYER = re.compile(r".*\bseg_layers\.\d+")
# of the transforms that nnU-Net draws at random, those that change the channels of a cascade's labels alone
_OF_LABELS = ("ApplyRandomBinaryOperatorTransform", "RemoveRandomConnectedComponentFromOneHotEncodingTransform")


class PretrainMixin(AttentionTrainer):
    """Put in front of a trainer, it lets the trainer's network reconstruct images; labels are not looked at.

    The network has one output channel for each channel of the image, without deep supervision; its output layer is the
    only part that a fine-tuning does not take over. Optimiser, precision, spatial augmentation and mirroring are the
    trainer's own; intensities are not augmented, so that what is to be predicted is the clean input. Epochs are 250
    unless the name says otherwise. In nnU-Net's log and drawing, the pseudo Dice is R^2.

    Tasks: `denoise` adds noise and compares all voxels; `inpaint` hides cells and compares these; `both` draws one of
    the two for each step. A patch transformer fills in every patch from its neighbours, in place of random cells.

    Raises:
        InputError: Where nnU-Net asks the class for a network to predict with: there is no segmentation in it.
    """

    pretraining: ClassVar[Literal["denoise", "inpaint", "both"]]
    epochs: ClassVar[int | None] = 250
    reads_labels: ClassVar[bool] = False

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's own signature
    ):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.enable_deep_supervision = False
        # a training asks the trainer for its network, nnU-Net's predictor asks the class
        self.build_network_architecture = self._image_network
        # not len(dataset_json["channel_names"]): a cascade's labels and channels of positions are input only
        self._image_channels = len(self.configuration_manager.normalization_schemes)
        self._tasks = TASKS[self.pretraining]
        self._task: Task = self._tasks[0]
        self._coin = random.Random()
        self._generator: torch.Generator | None = None
        self._validations = 0
        self._drawn: dict[Task, list[Reconstruction]] = {}

    @classmethod
    def build_network_architecture(cls, plans_manager: Any, *arguments: Any, **keywords: Any) -> nn.Module:
        """Refuse to give a network for prediction."""
        raise InputError(
            f"{cls.__name__} is a pre-training: its network gives images, not segmentations; fine-tune it with "
            f"nnUNetv2_train ... -pretrained_weights .../{PRETRAINED_FILE}, and predict with what comes of that"
        )

    def _image_network(
        self,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        return super().build_network_architecture(
            plans_manager, configuration_manager, num_input_channels, self._image_channels, False
        )

    def initialize(self) -> None:
        """Build network, optimiser and loss, and choose the cells that are hidden."""
        super().initialize()
        network: Any = self._plain_network()
        # what the patch transformer's forward can do itself, exactly: each patch hidden from its own block alone
        self._blanks_centres: bool = getattr(network, "blanks_centre", False)
        configuration = self.configuration_manager
        self._cell = planned_patch_embed_size(configuration.patch_size, configuration.spacing)

    def configure_optimizers(self) -> tuple:
        """Return the trainer's optimiser; output layers of deep supervision, which are not used, do not learn."""
        if self.is_ddp:
            channels: Any = self.num_input_channels
            with self._autocast():
                # one crop, as a step would do it with several: this needs no more memory than training does
                freeze_unused(
                    self._plain_network(), channels + len(self._position_axes), self.configuration_manager.patch_size
                )
        return super().configure_optimizers()

    def _build_loss(self) -> Any:
        return ReconstructionError()

    def _get_deep_supervision_scales(self) -> list | None:
        return None

    @classmethod
    def get_training_transforms(cls, *arguments: Any, **keywords: Any) -> BasicTransform:
        """Return the trainer's augmentation without what changes intensities."""
        return without_intensities(super().get_training_transforms(*arguments, **keywords))

    def on_train_start(self) -> None:
        """Start as the trainer does, and say in the log what is learned."""
        super().on_train_start()
        hidden = "the patch in the middle of each block" if self._blanks_centres else self._cells_described()
        says = {"denoise": f"noise at {SNR_DB:g} dB", "inpaint": f"hidden: {hidden}"}
        self.print_to_log_file(
            f"Pre-training, {' or '.join(f'{task} ({says[task]})' for task in self._tasks)}: labels are not used, and "
            "what is called pseudo Dice here and in progress.png is R^2 = 1 - MSE / variance"
        )

    def _cells_described(self) -> str:
        return f"{HIDDEN_SHARE:.0%} of the cells of {' x '.join(map(str, self._cell))} voxels"

    def on_train_epoch_start(self) -> None:
        """Start an epoch; with a seed, its noise and its tasks follow from the seed, also after a resume."""
        super().on_train_epoch_start()
        if self.seed is None:
            number = int.from_bytes(os.urandom(4), "little")
        else:
            number = derived_seeds(self.seed, _CORRUPTION, self.local_rank, self.current_epoch)[0]
        self._generator = torch.Generator(self.device).manual_seed(number)
        self._coin.seed(number)

    def train_step(self, batch: dict) -> dict:
        """Do one iteration on a corrupted batch."""
        self._task = self._coin.choice(self._tasks)
        if self._generator is None:
            self._generator = torch.Generator(self.device)
        data, target = self._corrupted(batch["data"].to(self.device, non_blocking=True), self._generator)
        return super().train_step({**batch, "data": data, "target": target})

    def _logits(self, data: Tensor) -> Any:
        if self._task == "inpaint" and self._blanks_centres:
            return self.network(data, valid=True, blank_centre=True)
        return super()._logits(data)

    def _corrupted(self, data: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the input for the task at hand, and what `ReconstructionError` compares the output with."""
        clean, others = data[:, : self._image_channels], data[:, self._image_channels :]
        everywhere = torch.ones_like(clean[:, :1])
        if self._task == "denoise":
            return torch.cat([with_noise(clean, generator), others], dim=1), with_region(clean, everywhere)
        if self._blanks_centres:
            return data, with_region(clean, everywhere)
        hidden = hidden_cells(clean.shape[2:], self._cell, len(clean), generator)
        return torch.cat([clean * (1 - hidden), others], dim=1), with_region(clean, hidden)

    def on_validation_epoch_start(self) -> None:
        """Start the validation of an epoch."""
        super().on_validation_epoch_start()
        self._validations = 0
        self._drawn = {}

    def validation_step(self, batch: dict) -> dict:
        """Return loss and sums of a batch, whose corruption is the same in every epoch; tasks take turns."""
        iteration, self._validations = self._validations, self._validations + 1
        self._task = self._tasks[iteration % len(self._tasks)]
        given, output, target = self._reconstruct(batch["data"], iteration)
        if self.local_rank == 0 and self._task not in self._drawn and self._is_drawn_in(self.current_epoch):
            self._drawn[self._task] = self._pictures(given, output, target)
        return {"loss": self.loss(output, target).cpu().numpy(), "totals": Totals.of(output, target)}

    def _reconstruct(self, data: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Corrupt a batch by random numbers that follow from `number`; returns what is compared, on the device.

        These are the input's image channels, the output and the target, of the voxels that the network answers for.
        """
        seed = derived_seeds(number, _CORRUPTION, self.local_rank, epoch=0)[0]
        generator = torch.Generator(self.device).manual_seed(seed)
        given, target = self._corrupted(data.to(self.device, non_blocking=True), generator)
        with self._autocast():
            output = self._logits(given)
        return self._target(given[:, : self._image_channels]), output, self._target(target)

    def _pictures(self, given: Tensor, output: Tensor, target: Tensor) -> list[Reconstruction]:
        in_turn = self._task == "inpaint" and self._blanks_centres
        title = f"{self._task}, each patch in its turn" if in_turn else self._task
        return middle_slices(title, given[0], output[0], target[0, :-1])

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        """Log the loss, and R^2 in place of nnU-Net's pseudo Dice, by which it keeps its best checkpoint."""
        totals = Totals.sum([output["totals"] for output in val_outputs])
        loss = float(np.mean([output["loss"] for output in val_outputs]))
        if self.is_ddp:
            shares = _gathered((totals, loss))
            totals = Totals.sum([share[0] for share in shares])
            loss = float(np.mean([share[1] for share in shares]))
        self.logger.log("mean_fg_dice", float(np.mean(totals.explained)), self.current_epoch)
        self.logger.log("dice_per_class_or_region", totals.explained, self.current_epoch)
        self.logger.log("val_losses", loss, self.current_epoch)
        if self._drawn:
            rows = [row for task in self._tasks for row in self._drawn.get(task, [])]
            self._draw("reconstructions", f"epoch_{self.current_epoch:04d}", f"epoch {self.current_epoch}", rows)

    def _is_drawn_in(self, epoch: int) -> bool:
        return epoch == 0 or (epoch + 1) % self.save_every == 0 or epoch + 1 == self.num_epochs

    def _draw(self, folder: str, name: str, heading: str, rows: list[Reconstruction]) -> None:
        file = Path(str(self.output_folder)) / folder / f"{name}.png"
        try:
            draw_reconstructions(file, f"{type(self).__name__}, {heading}", rows)
        except Exception as error:  # a drawing can fail with anything, and a training must not die of it
            self.print_to_log_file(f"{file} could not be drawn ({error!r})")

    def save_checkpoint(self, filename: str) -> None:
        """Write a checkpoint that says what its network was built from, as the file of weights does."""
        # the part of nnU-Net's checkpoints that tells what a training was made from; it is handed on as it is
        self.my_init_kwargs[ENTRY] = entry_of(self._plain_network(), self._source)
        super().save_checkpoint(filename)

    @property
    def _source(self) -> dict[str, Any]:
        return {
            "trainer": type(self).__name__,
            "pretraining": self.pretraining,
            "dataset": self.plans_manager.dataset_name,
            "plans": self.plans_manager.plans_name,
            "configuration": self.configuration_name,
            "epochs": self.num_epochs,
        }

    def on_train_end(self) -> None:
        """Write nnU-Net's final checkpoint, and beside it the weights alone, which any machine can load."""
        super().on_train_end()
        if self.local_rank == 0 and not self.disable_checkpointing:
            file = Path(str(self.output_folder)) / PRETRAINED_FILE
            write_pretrained(file, self._plain_network(), self._source)
            self.print_to_log_file(f"Weights for -pretrained_weights: {file}")

    @torch.no_grad()
    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Write how well the middle of each validation case is reconstructed, and draw the first cases."""
        self.network.eval()
        _, keys = self.do_split()
        keys = sorted(keys)
        cases: dict[str, Any] = {}
        for number, case in list(enumerate(keys))[
            self.local_rank :: distributed.get_world_size() if self.is_ddp else 1
        ]:
            patch = self._middle_patch(case)
            cases[case], rows = {}, []
            for task in self._tasks:
                self._task = task
                given, output, target = self._reconstruct(patch, number)
                cases[case][task] = reconstruction_measures(output, given, target)
                rows += self._pictures(given, output, target)
            if number < DRAWN_CASES:
                self._draw("validation", case, case, rows)
        if self.is_ddp:
            cases = {case: measures for share in _gathered(cases) for case, measures in share.items()}
        if self.local_rank == 0:
            self._report({case: cases[case] for case in keys})

    def _report(self, cases: dict[str, Any]) -> None:
        mean = {
            task: {name: _mean([case[task][name] for case in cases.values()]) for name in MEASURES}
            for task in self._tasks
        }
        folder = Path(str(self.output_folder)) / "validation"
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{REPORT_FILE}.partial"
        partial.write_text(json.dumps({"mean": mean, "cases": cases}, indent=4) + "\n", encoding="utf-8")
        os.replace(partial, folder / REPORT_FILE)
        told = "; ".join(f"{task}: PSNR {_text(m['psnr_db'])} dB, R^2 {_text(m['r2'])}" for task, m in mean.items())
        self.print_to_log_file(f"Validation complete, mean of {len(cases)} cases. {told}")

    def _middle_patch(self, case: str) -> Tensor:
        """Return the crop of a case's middle as the loaders give it, (1 c *patch)."""
        trainer: Any = self
        dataset = trainer.dataset_class(
            self.preprocessed_dataset_folder,
            [case],
            folder_with_segs_from_previous_stage=self.folder_with_segs_from_previous_stage,
        )
        image, labels, previous, _ = dataset.load_case(case)
        size = list(getattr(self, "train_patch_size", self.configuration_manager.patch_size))
        flat = len(size) == 2
        low = [(full - own) // 2 for full, own in zip(image.shape[1:], [1] * flat + size, strict=True)]
        box = [[first, first + own] for first, own in zip(low, [1] * flat + size, strict=True)]

        def crop(array: Any, outside: int) -> Tensor:
            cut = torch.from_numpy(np.asarray(crop_and_pad_nd(array, box, outside)))
            return cut[:, 0] if flat else cut

        segmentation = crop(labels, -1)
        if previous is not None:
            segmentation = torch.cat([segmentation, crop(previous[None], -1)])
        # what nnU-Net's loaders do to labels is of no use here, but for a cascade's
        transforms = trainer.get_validation_transforms(
            None, is_cascaded=self.is_cascaded, foreground_labels=self.label_manager.foreground_labels
        )
        sample = transforms(image=crop(image, 0).float(), segmentation=segmentation.to(torch.int16))
        return sample["image"][None]


def without_intensities(transforms: BasicTransform) -> BasicTransform:
    """Return transforms without those that nnU-Net draws at random to change an image's intensities."""
    if not isinstance(transforms, ComposeTransforms):
        return transforms
    kept = [
        transform
        for transform in transforms.transforms
        if not (
            isinstance(transform, RandomTransform)
            and isinstance(transform.transform, ImageOnlyTransform)
            and type(transform.transform).__name__ not in _OF_LABELS
        )
    ]
    return ComposeTransforms(kept)


def freeze_unused(network: nn.Module, input_channels: int, patch_size: Any) -> list[str]:
    """Freeze the parameters that get no gradient, which DistributedDataParallel would wait for; returns their names.

    These are output layers of deep supervision. A network with one output layer is not run: it uses what it has.
    """
    if len({match[0] for name, _ in network.named_parameters() if (match := _OUTPUT_LAYER.match(name))}) < 2:
        return []
    device = next(network.parameters()).device
    training = network.training
    # what norms remember of the data must not change
    network.eval()
    output: Any = network(torch.zeros(1, input_channels, *patch_size, device=device))
    named = dict(network.named_parameters())
    gradients = torch.autograd.grad(output.sum(), list(named.values()), allow_unused=True)
    unused = [name for name, gradient in zip(named, gradients, strict=True) if gradient is None]
    for name in unused:
        named[name].requires_grad_(False)
    network.train(training)
    return unused


def _gathered(share: Any) -> list[Any]:
    shares: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(shares, share)
    return shares


def _mean(values: list[float | None]) -> float | None:
    finite = [value for value in values if value is not None]
    return float(np.mean(finite)) if finite else None


def _text(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
