"""The main job on made data: GASA-UNet beside the plain U-Net, planned, trained and predicted by stock commands."""

import json
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from nnunet_attn.datasets.phantom import LABELS, write_phantom
from nnunet_attn.datasets.raw import FILE_ENDING
from nnunet_attn.errors import InputError
from nnunet_attn.paths import NNUNET_FOLDERS, TRAINER_VARIABLE, check_writable, make_folder, nnunet_environment
from nnunet_attn.planning.derived import narrowed_plans, write_plans
from nnunet_attn.stock import run_stock

DATASET_ID = 900
PLANS_NAME = "nnUNetPlansDemo"
OVERLAY_NAME = "nnunet-attn-demo.png"
LOGS_NAME = "nnunet-attn-demo-logs"
TRAINERS = {"GASA-UNet": "nnUNetTrainerGASA", "plain U-Net": "nnUNetTrainerPlain"}
CONFIGURATIONS = {2: "2d", 3: "3d_fullres"}
ORGANS = {name: value for name, value in LABELS.items() if value > 0}
# with 8 the kidneys are not found within the demo's few iterations
FIRST_STAGE_FEATURES = 16
# The paper's 25 dims go with 320 channels at the bottleneck; the demo's networks have 128 (3D) and 256 (2D), so their
# attention is narrower.
NETWORK_OPTIONS = {"GASAUNet": {"embed_dim": 10, "num_heads": 2}}
# tab10's orange, red, green, purple: apart from each other and from a grey image
ORGAN_COLOURS = ("tab:orange", "tab:red", "tab:green", "tab:purple")


@dataclass(frozen=True)
class DemoResult:
    """What a demo measured and left behind.

    Args:
        dice: Network -> organ -> mean Dice over the held-out cases.
        overlay: The picture.
        folder: Where data, models, predictions and logs are; None if they were temporary.
    """

    dice: Mapping[str, Mapping[str, float]]
    overlay: Path
    folder: Path | None


def run_demo(
    dim: int = 3,
    keep: Path | None = None,
    epochs: int = 8,
    iterations: int = 40,
    console: Console | None = None,
) -> DemoResult:
    """Train and compare both networks on a phantom, in folders of its own, with the stock nnU-Net commands.

    Args:
        dim: 2 or 3.
        keep: Folder that keeps everything, missing or empty. Without it all but the picture is temporary, and the
            picture goes to the current directory, or after a failure the logs.
        epochs: Epochs of each training.
        iterations: Iterations an epoch.
        console: Where progress and results are shown.
    Raises:
        InputError: If an argument is out of its range, `keep` has content or cannot be made, or the current directory
            is to get the picture and cannot be written to.
        StockCommandError: If a stock command fails.
    """
    if dim not in CONFIGURATIONS:
        raise InputError(f"dim={dim}: the demo works in 2 or 3 dimensions")
    if epochs < 1 or iterations < 1:
        raise InputError(f"epochs={epochs}, iterations={iterations}: both must be at least 1")
    console = console or Console()
    with _working_folder(keep, console) as root:
        steps = _Steps(root, console)
        truth = _prepare(steps, dim)
        predictions = {
            network: _train_and_predict(steps, dim, f"{base}_{epochs}epochs_{iterations}its_NoMirroring", epochs)
            for network, base in TRAINERS.items()
        }
        dice = {network: _mean_dice(truth, folder) for network, folder in predictions.items()}
        console.print(dice_table(dice, len(list(truth.glob(f"*{FILE_ENDING}")))))
        console.print("One short, unseeded training of each: the numbers show that both learn, not which is better.")
        overlay = (Path.cwd() if keep is None else root) / OVERLAY_NAME
        save_overlay(overlay, truth, predictions)
    console.print(f"Picture of one held-out case: {overlay}", soft_wrap=True)
    if keep is not None:
        console.print(f"Data, models, predictions and logs: {root}", soft_wrap=True)
    return DemoResult(dice, overlay, None if keep is None else root)


@contextmanager
def _working_folder(keep: Path | None, console: Console) -> Iterator[Path]:
    if keep is None:
        check_writable(Path("."))
        with tempfile.TemporaryDirectory(prefix="nnunet-attn-demo-") as temporary, _logs_kept(Path(temporary), console):
            yield Path(temporary)
        return
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise InputError(f"{keep} exists and is not an empty folder: name a new one to keep the demo in")
    make_folder(keep)
    yield keep.resolve()


@contextmanager
def _logs_kept(root: Path, console: Console) -> Iterator[None]:
    """Copy the logs of a demo that fails out of its temporary folder, which is about to go."""
    try:
        yield
    except Exception:
        logs = root / "logs"
        if logs.is_dir() and any(logs.iterdir()):
            kept = next(name for n in count(1) if not (name := Path(LOGS_NAME + (f"-{n}" if n > 1 else ""))).exists())
            shutil.copytree(logs, kept)
            console.print(f"The logs are kept in {kept.resolve()}", soft_wrap=True)
        raise


@dataclass
class _Steps:
    """Runs stock commands in one environment: shows each as one would type it, its progress, and keeps its log."""

    root: Path
    console: Console
    environment: dict[str, str] = field(init=False)
    device: str = field(init=False)

    def __post_init__(self) -> None:
        self.environment = nnunet_environment(self.root)
        for variable in (*NNUNET_FOLDERS, TRAINER_VARIABLE):
            self._show(f"export {variable}={shlex.quote(self.environment[variable])}")
        # Compiling the networks would take longer than training them; two worker processes feed such small images,
        # and threads that wait must leave the cores to them (a busy wait made the demo several times slower).
        small = {
            "nnUNet_def_n_proc": "2",
            "nnUNet_n_proc_DA": "2",
            "nnUNet_compile": "false",
            "nnUNet_wandb_enabled": "0",
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        self._show("export " + " ".join(f"{variable}={value}" for variable, value in small.items()))
        self.environment.update(small)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        (self.root / "logs").mkdir()

    def run(self, title: str, command: str, arguments: Sequence[object], epochs: int = 0) -> None:
        """Run one stock command; with `epochs`, its output tells the progress."""
        self._show(shlex.join([command, *map(str, arguments)]))
        logs = self.root / "logs"
        log_file = logs / f"{len(list(logs.iterdir())) + 1}_{command.removeprefix('nnUNetv2_')}.log"
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(title, total=epochs or None)
            run_stock(command, arguments, self.environment, log_file, _epoch_display(progress, task, title, epochs))
            progress.update(task, description=title, total=epochs or 1, completed=epochs or 1)

    def _show(self, command: str) -> None:
        self.console.print(f"$ {command}", markup=False, highlight=False, soft_wrap=True, style="bold")


def epoch_in(line: str) -> int | None:
    """Return the number in a line with which nnU-Net begins an epoch, such as `2025-01-01 12:00:00.000000: Epoch 3`."""
    match = re.search(r"(?:^|: )Epoch (\d+)\s*$", line)
    return int(match[1]) if match else None


def _epoch_display(progress: Progress, task: TaskID, title: str, epochs: int) -> Callable[[str], None]:
    def show(line: str) -> None:
        epoch = epoch_in(line)
        if epoch is not None:
            progress.update(task, completed=epoch, description=f"{title}, epoch {epoch + 1} of {epochs}")
        elif line.rstrip().endswith("Training done."):
            progress.update(task, completed=epochs, description=f"{title}, validation")

    return show


def _prepare(steps: _Steps, dim: int) -> Path:
    """Make the data set, preprocess it and write the demo's plans; return the folder of the held-out labels."""
    dataset = write_phantom(Path(steps.environment["nnUNet_raw"]), DATASET_ID, dim=dim)
    planning = ["-d", DATASET_ID, "-c", CONFIGURATIONS[dim], "--verify_dataset_integrity", "-npfp", 2, "-np", 2]
    steps.run("Planning and preprocessing", "nnUNetv2_plan_and_preprocess", planning)
    preprocessed = Path(steps.environment["nnUNet_preprocessed"]) / dataset.name
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text(encoding="utf-8"))
    narrow = narrowed_plans(plans, PLANS_NAME, [CONFIGURATIONS[dim]], FIRST_STAGE_FEATURES, 2, NETWORK_OPTIONS)
    write_plans(narrow, preprocessed)
    return dataset / "labelsTs"


def _train_and_predict(steps: _Steps, dim: int, trainer: str, epochs: int) -> Path:
    """Train on fold 0, predict the held-out cases, and return the folder of the predictions."""
    configuration = CONFIGURATIONS[dim]
    model = ["-p", PLANS_NAME, "-tr", trainer, "-device", steps.device]
    steps.run(f"Training {trainer}", "nnUNetv2_train", [DATASET_ID, configuration, 0, *model], epochs)
    (images,) = Path(steps.environment["nnUNet_raw"]).glob(f"Dataset{DATASET_ID}_*/imagesTs")
    folder = steps.root / "predictions" / trainer
    prediction = ["-i", images, "-o", folder, "-d", DATASET_ID, "-c", configuration, "-f", 0, *model]
    steps.run(f"Predicting with {trainer}", "nnUNetv2_predict", [*prediction, "-npp", 1, "-nps", 1])
    return folder


def dice(reference: NDArray[Any], prediction: NDArray[Any], label: int) -> float:
    """Return 2 |A and B| / (|A| + |B|) of one label; NaN where neither has it."""
    in_reference, in_prediction = reference == label, prediction == label
    total = int(in_reference.sum()) + int(in_prediction.sum())
    return 2 * int((in_reference & in_prediction).sum()) / total if total else float("nan")


def _read(file: Path) -> NDArray[Any]:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def _mean_dice(truth: Path, predictions: Path) -> dict[str, float]:
    cases = [(_read(file), _read(predictions / file.name)) for file in sorted(truth.glob(f"*{FILE_ENDING}"))]
    return {organ: _mean(dice(*case, label) for case in cases) for organ, label in ORGANS.items()}


def _mean(values: Iterable[float]) -> float:
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")


def dice_table(dice_by_network: Mapping[str, Mapping[str, float]], n_cases: int) -> Table:
    """Return the organs' Dice with one column a network, their mean last."""
    table = Table(title=f"Mean Dice over {n_cases} held-out cases")
    table.add_column("organ")
    for network in dice_by_network:
        table.add_column(network, justify="right")
    for organ in ORGANS:
        table.add_row(organ, *[f"{values[organ]:.3f}" for values in dice_by_network.values()])
    table.add_section()
    table.add_row("mean", *[f"{_mean(values.values()):.3f}" for values in dice_by_network.values()])
    return table


def save_overlay(file: Path, truth: Path, predictions: Mapping[str, Path]) -> None:
    """Draw the first held-out case: the image, and the labels of the reference and of each network over it.

    Args:
        file: The picture; one of that name is replaced.
        truth: Folder of the reference labels, beside `imagesTs`.
        predictions: Network -> folder of its labels.
    """
    name = min(path.name for path in truth.glob(f"*{FILE_ENDING}"))
    image = _read(truth.parent / "imagesTs" / name.replace(FILE_ENDING, f"_0000{FILE_ENDING}"))
    labels = {"reference": _read(truth / name)} | {
        network: _read(folder / name) for network, folder in predictions.items()
    }
    if image.ndim == 3:
        index = best_slice(labels["reference"])
        image, labels = image[index], {title: volume[index] for title, volume in labels.items()}
    figure = Figure(figsize=(3.2 * (len(labels) + 1), 3.2), layout="constrained")
    panels = figure.subplots(1, len(labels) + 1)
    colours = ListedColormap(ORGAN_COLOURS)
    for panel, (title, overlaid) in zip(panels, {"image": None, **labels}.items(), strict=True):
        panel.imshow(image, cmap="gray")
        if overlaid is not None:
            organs = np.ma.masked_equal(overlaid, 0)
            panel.imshow(organs, colours, alpha=0.6, vmin=1, vmax=len(ORGANS), interpolation="none")
        panel.set_title(title)
        panel.set_axis_off()
    patches = [Patch(color=colour, label=organ) for organ, colour in zip(ORGANS, ORGAN_COLOURS, strict=True)]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False)
    figure.savefig(file, dpi=150)


def best_slice(labels: NDArray[Any]) -> int:
    """Return the index, along the first axis, of the slice that shows the most organs, then the most of them."""
    return max(range(len(labels)), key=lambda index: (len(np.unique(labels[index])), np.count_nonzero(labels[index])))
