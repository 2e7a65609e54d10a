"""What memory a training step needs, found out in a process of its own, and nnU-Net's preset of that size.

Without torch: `nnunet_attn.study.dry_step` does the work in the other process.
"""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS_EACH = 300.0  # to load torch and nnU-Net and to trace one network, on a slow and busy machine

# What nnU-Net plans for is a whole GPU: cuDNN's scratch memory, CUDA's own and fragments among it. Traced steps of
# plans like its own for 8 GB (128 x 128 x 128, plain) and 24 GB (160 x 192 x 160, residual) take 0.62 and 0.65 of that.
_ESTIMATE_PER_TARGET = 0.64

COMMAND = (sys.executable, "-m", "nnunet_attn.study.dry_step")


@dataclass(frozen=True)
class StepTask:
    """A network whose training step is to be examined.

    Args:
        trainer: Name of the trainer, with its suffixes.
        plans: The plans.
        configuration: One of theirs.
        dataset: The data set's dataset.json.
        device: "cuda", "cpu" or "mps"; None: CUDA where there is one.
    """

    trainer: str
    plans: Mapping[str, Any]
    configuration: str
    dataset: Mapping[str, Any]
    device: str | None = None


@dataclass(frozen=True)
class StepNeed:
    """What a training step needs.

    Args:
        problem: Why there can be no training; None if there can.
        remedy: What to do about it; may be empty.
        unknown: Why the memory is not known; None where it is.
        measured: Whether `peak_bytes` was measured on a GPU; else it is an estimate.
        peak_bytes: The most memory that PyTorch holds; None if unknown, or if a measured GPU had not enough.
        free_bytes: Free memory of the device that trains; None if that is not in this machine.
        total_bytes: All memory of that GPU; None elsewhere.
        parameters: Trained numbers.
        checkpoint_bytes: Of one of nnU-Net's checkpoints: network and optimiser state.
        epochs: Of the whole training.
        flops: Operations of one forward pass on `input_shape`; where `command` of `examine_steps` counts them.
        input_shape: Batch (1), channels, and the patch in voxels.
    """

    problem: str | None = None
    remedy: str = ""
    unknown: str | None = None
    measured: bool = False
    peak_bytes: int | None = None
    free_bytes: int | None = None
    total_bytes: int | None = None
    parameters: int | None = None
    checkpoint_bytes: int | None = None
    epochs: int | None = None
    flops: int | None = None
    input_shape: tuple[int, ...] | None = None

    @property
    def comparable_bytes(self) -> float | None:
        """The memory as nnU-Net's presets count theirs: of a whole GPU, not of PyTorch's tensors alone."""
        if self.peak_bytes is None:
            return None
        return self.peak_bytes if self.measured else self.peak_bytes / _ESTIMATE_PER_TARGET

    @property
    def does_not_fit(self) -> bool:
        """Whether a GPU in this machine has less memory than the step needs, or a CPU's looks like that."""
        if self.problem is not None or self.unknown is not None:
            return False
        if self.measured and self.peak_bytes is None:
            return True
        return self.peak_bytes is not None and self.free_bytes is not None and self.peak_bytes > self.free_bytes


def examine_steps(
    tasks: Sequence[StepTask],
    seconds_each: float = SECONDS_EACH,
    command: Sequence[str] = COMMAND,
    on_answer: Callable[[StepTask], object] = lambda _: None,
) -> tuple[StepNeed, ...]:
    """Examine training steps, one after the other, in a process of their own; nothing of it touches nnU-Net's folders.

    What is the same is examined once. A task whose process is killed or takes too long is unknown, and the others go
    on in a new process.

    Args:
        tasks: The tasks.
        seconds_each: Longest time for one of them.
        command: What to run; a file of tasks is its last argument.
        on_answer: Called after each task, for progress display.
    Returns:
        One answer for each task.
    """
    keys = [json.dumps(vars(task), sort_keys=True, default=str) for task in tasks]
    unique = dict(zip(reversed(keys), reversed(tasks), strict=True))
    waiting = [key for key in dict.fromkeys(keys)]
    answers: dict[str, StepNeed] = {}
    while waiting:
        done = _run([unique[key] for key in waiting], seconds_each, command, on_answer)
        answers.update(zip(waiting, done, strict=False))
        waiting = waiting[len(done) :]
    return tuple(answers[key] for key in keys)


def _run(
    tasks: Sequence[StepTask], seconds_each: float, command: Sequence[str], on_answer: Callable[[StepTask], object]
) -> list[StepNeed]:
    """Examine tasks until one breaks off, whose answer is the last; at least one."""
    answers: list[StepNeed] = []
    with tempfile.TemporaryDirectory(prefix="nnunet-attn-") as folder:
        file, errors = Path(folder) / "tasks.json", Path(folder) / "stderr.txt"
        file.write_text(json.dumps([vars(task) for task in tasks], default=dict), encoding="utf-8")
        # trainers make their results folder when they are constructed
        environment = {**os.environ, "nnUNet_results": str(Path(folder) / "results"), "PYTHONUNBUFFERED": "1"}
        with errors.open("wb") as sink:
            process = subprocess.Popen(
                [*command, str(file)], stdout=subprocess.PIPE, stderr=sink, text=True, env=environment
            )
        lines: queue.Queue[str | None] = queue.Queue()
        reader = threading.Thread(target=_read, args=(process, lines), daemon=True)
        reader.start()
        try:
            for task in tasks:
                try:
                    line = lines.get(timeout=seconds_each)
                except queue.Empty:
                    answers.append(StepNeed(unknown=f"it took longer than {seconds_each:.0f} s"))
                    break
                answers.append(_answer(line) if line else StepNeed(unknown=_reason(process, errors)))
                on_answer(task)
                if line is None:
                    break
        finally:
            process.kill()
            process.wait()
            reader.join()
            if process.stdout is not None:
                process.stdout.close()
    return answers


def _read(process: "subprocess.Popen[str]", lines: "queue.Queue[str | None]") -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith('{"'):  # a library may print, too
            lines.put(line)
    lines.put(None)


def _answer(line: str) -> StepNeed:
    content = json.loads(line)
    return StepNeed(**{key: value for key, value in content.items() if key in StepNeed.__dataclass_fields__})


def _reason(process: "subprocess.Popen[str]", errors: Path) -> str:
    code = process.wait()
    if code < 0:
        return f"its process was ended by signal {-code}" + (", perhaps for want of memory" if code == -9 else "")
    last = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"its process ended with exit code {code}" + (f": {last[-1]}" if last else "")


@dataclass(frozen=True)
class Preset:
    """One of nnU-Net's planners of residual encoder U-Nets.

    Args:
        planner: As `nnUNetv2_plan_experiment -pl` takes it.
        plans: Name of its plans.
        target_gb: Memory in GB that it plans for.
    """

    planner: str
    plans: str
    target_gb: float


PRESETS = (
    Preset("nnUNetPlannerResEncM", "nnUNetResEncUNetMPlans", 8),
    Preset("nnUNetPlannerResEncL", "nnUNetResEncUNetLPlans", 24),
    Preset("nnUNetPlannerResEncXL", "nnUNetResEncUNetXLPlans", 40),
)


def nearest_preset(comparable_bytes: float) -> Preset:
    """Return the preset whose memory is nearest to a network's `comparable_bytes`; of two as near the larger."""
    return min(PRESETS, key=lambda preset: (abs(preset.target_gb * 1e9 - comparable_bytes), -preset.target_gb))
