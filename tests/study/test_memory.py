"""What a training step needs: traced against measured, and the process that finds it out."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nnunet_attn.architectures.registry import NETWORKS
from nnunet_attn.benchmark.measure import peak_allocated_bytes
from nnunet_attn.paths import nnunet_environment
from nnunet_attn.study.memory import PRESETS, StepNeed, StepTask, examine_steps, nearest_preset
from tests.made.plans import ALL_2, KINDS, LABELS, Kind, architecture, configuration

CPU = torch.device("cpu")
_MEDIUM = Kind(
    "3d_fullres",
    configuration(
        [24, 32, 32],
        [[1, 1, 1], ALL_2, ALL_2],
        architecture=architecture([24, 32, 32], [[1, 1, 1], ALL_2, ALL_2], [16, 32, 64]),
    ),
    LABELS,
)


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for key, value in {**nnunet_environment(tmp_path, base={}), "nnUNet_compile": "f"}.items():
        monkeypatch.setenv(key, value)
    return tmp_path


def task_of(kind: Kind, trainer: str, device: str | None = "cpu") -> StepTask:
    small = next((kind.with_options(row) for row in NETWORKS if trainer.split("_")[0] in row.trainers), kind)
    return StepTask(trainer, small.plans, small.configuration, small.dataset_json, device)


# Of three kinds of networks: convolutions, windows of attention, axial attention; and of the one whose crops are its
# own. The trace knows nothing of what kernels take for themselves, which is more for small networks: it is below.
@pytest.mark.parametrize(
    "trainer",
    [
        "nnUNetTrainer",
        "nnUNetTrainerPlain_bf16",
        "nnUNetTrainerGASA",
        "nnUNetTrainerPatchTransformerPaper",
        pytest.param("nnUNetTrainerFINE", marks=pytest.mark.slow),
        pytest.param("nnUNetTrainerGatedAxial", marks=pytest.mark.slow),
    ],
)
def test_an_estimate_is_near_the_measured_peak(trainer: str) -> None:
    from nnunet_attn.study.dry_step import described, made_batch, prepared_trainer, traced_step

    task = vars(task_of(_MEDIUM, trainer))
    estimate = traced_step(task)
    real = prepared_trainer(task, CPU, CPU)
    batch = made_batch(real)

    def step() -> None:
        real.train_step(batch)

    step()  # the first one makes the optimiser's state
    real.optimizer.zero_grad(set_to_none=True)
    held = [*real.network.parameters(), *real.network.buffers(), batch["data"]]
    held += batch["target"] if isinstance(batch["target"], list) else [batch["target"]]
    state = [each for entry in real.optimizer.state.values() for each in entry.values() if torch.is_tensor(each)]
    before = sum(each.numel() * each.element_size() for each in [*held, *state])
    measured = before + peak_allocated_bytes(step, CPU)
    assert 0.8 <= estimate["peak_bytes"] / measured <= 1.1
    # exact, but for the few numbers that count the optimiser's steps
    assert estimate["parameters"] == described(real)["parameters"]
    assert estimate["optimizer_bytes"] == pytest.approx(sum(e.numel() * e.element_size() for e in state), rel=1e-2)


@pytest.mark.parametrize("name", ["2d", "ignore", "regions", "cascade", "anisotropic", "residual"])
def test_every_kind_of_configuration_can_be_traced(name: str) -> None:
    from nnunet_attn.study.dry_step import traced_step

    traced = traced_step(vars(task_of(KINDS[name], "nnUNetTrainer_250epochs")))
    assert traced["epochs"] == 250
    assert traced["peak_bytes"] > traced["checkpoint_bytes"] > 4 * traced["parameters"]


def test_twice_the_batch_saves_twice_the_activations_and_mixed_precision_saves_memory() -> None:
    from nnunet_attn.study.dry_step import traced_step

    double = replace(_MEDIUM, entry={**_MEDIUM.entry, "batch_size": 4})
    one, two = (traced_step(vars(task_of(kind, "nnUNetTrainer"))) for kind in (_MEDIUM, double))
    fixed = 3 * one["parameter_bytes"]  # weights, gradients, momentum
    assert (two["peak_bytes"] - fixed) / (one["peak_bytes"] - fixed) == pytest.approx(2, rel=0.05)
    mixed = traced_step(vars(task_of(_MEDIUM, "nnUNetTrainer")), mixed=True)
    assert 0.4 < mixed["peak_bytes"] / one["peak_bytes"] < 0.8
    full = traced_step(vars(task_of(_MEDIUM, "nnUNetTrainerPlain_fp32")), mixed=True)
    assert full["peak_bytes"] == pytest.approx(one["peak_bytes"], rel=0.02)  # the suffix is heeded


class MadeCuda(SimpleNamespace):
    """What a dry step asks of torch.cuda."""

    def synchronize(self) -> None:
        pass

    def mem_get_info(self) -> tuple[int, int]:
        return 1000, 4000

    def memory_reserved(self) -> int:
        return 500

    def reset_peak_memory_stats(self) -> None:
        self.calls = []

    def max_memory_allocated(self) -> int:
        return 100 * len(self.calls)


class MadeTrainer:
    """A trainer whose steps need the memory that its maker says."""

    num_epochs = 7

    def __init__(self, cuda: MadeCuda, fails: bool) -> None:
        self.cuda, self.fails = cuda, fails
        self.network = torch.nn.Conv3d(1, 2, 1)
        self.optimizer = torch.optim.SGD(self.network.parameters(), 0.1, momentum=0.9)

    def train_step(self, batch: dict[str, Any]) -> None:
        self.cuda.calls.append(batch)
        if self.fails:
            raise torch.cuda.OutOfMemoryError("no memory")


def test_a_dry_step_is_measured_over_two_steps() -> None:
    from nnunet_attn.study.dry_step import measured_step

    cuda = MadeCuda()
    told = measured_step(MadeTrainer(cuda, fails=False), {"data": 1}, cuda)
    assert (told["peak_bytes"], told["free_bytes"], told["total_bytes"]) == (200, 1500, 4000)
    assert told["parameters"] == 4 and told["checkpoint_bytes"] == 4 * 4 * 2  # weights and momentum, float32
    assert not StepNeed(measured=True, peak_bytes=200, free_bytes=1500).does_not_fit


def test_a_gpu_without_enough_memory_is_told() -> None:
    from nnunet_attn.study.dry_step import measured_step

    cuda = MadeCuda()
    told = measured_step(MadeTrainer(cuda, fails=True), {}, cuda)
    assert told["peak_bytes"] is None
    assert StepNeed(measured=True, peak_bytes=None, free_bytes=told["free_bytes"]).does_not_fit


@pytest.mark.gpu
@pytest.mark.parametrize("trainer", ["nnUNetTrainer", "nnUNetTrainerGASA_bf16", "nnUNetTrainerPlain_fp32"])
def test_a_real_gpu_is_measured(trainer: str) -> None:
    from nnunet_attn.study.dry_step import answer

    told = answer(vars(task_of(_MEDIUM, trainer, None)))
    assert told["measured"] and told["peak_bytes"] > 4 * 4 * told["parameters"]
    assert told["free_bytes"] <= told["total_bytes"]


@pytest.mark.slow
def test_the_process_answers_for_every_task() -> None:
    answers = examine_steps(
        [
            task_of(KINDS["3d"], "nnUNetTrainer_2epochs"),
            task_of(KINDS["2d"], "nnUNetTrainerNNFormer"),
            task_of(KINDS["3d"], "nnUNetTrainerAbsent"),
            task_of(KINDS["3d"], "nnUNetTrainerPlain_3epochs", "cuda" if not torch.cuda.is_available() else "cpu"),
        ]
    )
    assert answers[0].problem is not None  # nnU-Net has no variant of two epochs
    assert "3D configurations" in (answers[1].problem or "")
    assert "nnUNetTrainerAbsent" in (answers[2].problem or "")
    last = answers[3]
    assert last.problem is None and last.epochs == 3 and not last.measured and (last.peak_bytes or 0) > 1e5
    assert torch.cuda.is_available() or last.free_bytes is None  # of a GPU elsewhere nothing is known


_ANSWERS = """
import json, os, signal, sys, time
for task in json.load(open(sys.argv[1])):
    name = task["trainer"]
    print("a library says hello", flush=True)
    if name == "killed": os.kill(os.getpid(), signal.SIGKILL)
    if name == "hangs": time.sleep(60)
    if name == "breaks": sys.exit("no such thing")
    print(json.dumps({"parameters": len(name), "measured": False, "peak_bytes": os.getpid(), "more": 1}), flush=True)
"""


def _answers(names: Sequence[str], seconds: float = 60) -> tuple[list[str], tuple[StepNeed, ...]]:
    seen: list[str] = []
    tasks = [StepTask(name, {}, "3d_fullres", {}) for name in names]
    command = (sys.executable, "-c", _ANSWERS)
    return seen, examine_steps(tasks, seconds, command, lambda task: seen.append(task.trainer))


def test_what_breaks_off_is_unknown_and_the_others_go_on() -> None:
    seen, (one, killed, two, broken, again) = _answers(["one", "killed", "two!", "breaks", "one"])
    assert (one.parameters, two.parameters) == (3, 4)
    assert one is again  # the same is examined once
    assert one.peak_bytes != two.peak_bytes  # in another process
    assert killed.unknown == "its process was ended by signal 9, perhaps for want of memory"
    assert broken.unknown == "its process ended with exit code 1: no such thing"
    assert seen == ["one", "killed", "two!", "breaks"]


def test_what_takes_too_long_is_unknown() -> None:
    _, (hangs,) = _answers(["hangs"], seconds=0.5)
    assert (hangs.unknown or "").startswith("it took longer than")
    assert not hangs.does_not_fit


def _full_size(patch: list[int], residual: bool) -> Kind:
    """As nnU-Net plans for a large data set: six stages, 32 to 320 features, a batch of two."""
    strides, features = [[1, 1, 1], *[ALL_2] * 5], [32, 64, 128, 256, 320, 320]
    made = architecture(patch, strides, features, residual)
    convolutions = {"n_blocks_per_stage": [1, 3, 4, 6, 6, 6]} if residual else {"n_conv_per_stage": [2] * 6}
    made["arch_kwargs"].update(convolutions, n_conv_per_stage_decoder=[1 if residual else 2] * 5)
    return Kind("3d_fullres", configuration(patch, strides, architecture=made), LABELS)


@pytest.mark.parametrize(
    ("patch", "residual", "index"),
    [([128, 128, 128], False, 0), pytest.param([160, 192, 160], True, 1, marks=pytest.mark.slow)],
)
def test_the_preset_nearest_to_its_own_plans_is_itself(patch: list[int], residual: bool, index: int) -> None:
    from nnunet_attn.study.dry_step import traced_step

    traced = traced_step(vars(task_of(_full_size(patch, residual), "nnUNetTrainer", "cuda")), mixed=True)
    comparable = StepNeed(peak_bytes=traced["peak_bytes"]).comparable_bytes
    assert comparable is not None
    assert nearest_preset(comparable) == PRESETS[index]
    assert comparable / 1e9 == pytest.approx(PRESETS[index].target_gb, rel=0.1)


def test_the_nearest_preset_changes_halfway() -> None:
    assert [preset.target_gb for preset in PRESETS] == [8, 24, 40]
    assert nearest_preset(16e9).target_gb == 24 and nearest_preset(15.9e9).target_gb == 8
    assert nearest_preset(32e9).target_gb == 40 and nearest_preset(31.9e9).target_gb == 24
    assert StepNeed(peak_bytes=16, measured=True).comparable_bytes == 16
    assert StepNeed().comparable_bytes is None
