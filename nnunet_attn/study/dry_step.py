"""One training step of a trainer on made data: done and measured on a GPU, elsewhere traced without computing anything.

`python -m nnunet_attn.study.dry_step TASKS.json` answers one line of JSON a task; `nnunet_attn.study.memory` starts it.
"""

import contextlib
import copy
import io
import json
import os
import sys
import warnings
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as stock
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from nnunet_attn.doctor import COMPILE_VARIABLE, explain_trainer
from nnunet_attn.replacing import replaced
from nnunet_attn.training.patch_memory import free_bytes

_CPU, _META = torch.device("cpu"), torch.device("meta")


def prepared_trainer(task: Mapping[str, Any], device: torch.device, initialised_on: torch.device) -> Any:
    """Return a trainer with network, optimiser and loss, which has read no data.

    Args:
        task: "trainer", "plans", "configuration" and "dataset" (dataset.json).
        device: What its constructor is told.
        initialised_on: Where its network is made; on "meta" at no cost.
    Raises:
        ValueError: If its network cannot work on this configuration; of a foreign trainer anything.
    """
    found = recursive_find_trainer_class_by_name(task["trainer"])
    plans = {**copy.deepcopy(dict(task["plans"])), "continue_training": False}
    trainer: Any = found(plans, task["configuration"], 0, copy.deepcopy(dict(task["dataset"])), device)
    trainer.device = initialised_on
    # nothing is preprocessed where this runs
    with replaced(stock, "infer_dataset_class", lambda *_: None), initialised_on:
        trainer.initialize()
    trainer.device = device
    trainer.network.train()
    return trainer


def made_batch(trainer: Any) -> dict[str, Any]:
    """Return a batch of the shapes that a trainer's loader delivers: noise, and labels that are background."""
    manager, labels = trainer.configuration_manager, trainer.label_manager
    size = getattr(trainer, "train_patch_size", manager.patch_size)
    channels = trainer.num_input_channels + len(getattr(trainer, "_position_axes", ()))
    scales = trainer._get_deep_supervision_scales() if trainer.enable_deep_supervision else None

    def target(scale: Any) -> Tensor:
        space = [round(voxels * factor) for voxels, factor in zip(size, scale, strict=True)]
        if labels.has_regions:
            return torch.zeros(manager.batch_size, labels.num_segmentation_heads + labels.has_ignore_label, *space)
        return torch.zeros(manager.batch_size, 1, *space, dtype=torch.int16)

    targets: Any = [target(scale) for scale in scales] if scales else target([1] * len(size))
    return {"data": torch.randn(manager.batch_size, channels, *size), "target": targets}


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, for as long as anything holds them.

    `bytes` is what is held now, `most` the most it has been. What autograd saves is held, too; scratch memory that a
    kernel takes for itself is not seen.

    Args:
        known: Tensors that were there before, and do not count.
    """

    def __init__(self, known: Any = ()) -> None:
        super().__init__()
        self.bytes = self.most = 0
        self._seen: Any = weakref.WeakKeyDictionary()
        for tensor in tree_leaves(known):
            self._seen[tensor.untyped_storage()] = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        if storage in self._seen:
            return
        size = storage.nbytes()
        self._seen[storage] = None
        self.bytes += size
        self.most = max(self.most, self.bytes)
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self.bytes -= size


def traced_step(task: Mapping[str, Any], mixed: bool = False) -> dict[str, Any]:
    """Trace one training step on fake tensors, which have shapes and no numbers, and return what memory it takes.

    Args:
        task: As of `prepared_trainer`.
        mixed: Whether a trainer without a precision of its own computes in fp16 mixed precision, as nnU-Net on a GPU.
    Returns:
        "peak_bytes": parameters, buffers, optimiser state and batch, and the most that forward and backward pass hold
        beside them, saved activations and gradients among it; "parameters"; "checkpoint_bytes"; "epochs".
    """
    # nnU-Net asks the numbers whether a batch has any label beside the ignored one
    dataset = {**task["dataset"], "labels": {k: v for k, v in task["dataset"]["labels"].items() if k != "ignore"}}
    trainer = initialised_trainer({**task, "dataset": dataset})
    network: nn.Module = trainer.network
    size = described(trainer)
    with FakeTensorMode():
        put_fake_tensors(network)
        batch = made_batch(trainer)
        known = [*network.parameters(), *network.buffers(), *tree_leaves(batch)]
        held = sum(tensor.numel() * tensor.element_size() for tensor in known) + size["optimizer_bytes"]
        amp = mixed and getattr(trainer, "precision", "amp") == "amp"
        live = LiveBytes(known)
        # an operation's precision is that of CPU autocast: CUDA's keeps some more in float32, softmax for example
        with live, torch.autocast("cpu", dtype=torch.float16, enabled=amp):
            logits = getattr(trainer, "_logits", network)(batch["data"])
            loss = trainer.loss(logits, getattr(trainer, "_target", lambda target: target)(batch["target"]))
        del logits
        with live:
            loss.backward()
    peak = held + live.most
    if mixed:  # optimisers on a GPU work on all parameters at once, with one more copy of them
        peak = max(peak, held + 2 * size["parameter_bytes"])
    return {**size, "peak_bytes": peak}


def measured_step(trainer: Any, batch: Mapping[str, Any], cuda: Any = torch.cuda) -> dict[str, Any]:
    """Do two training steps on a GPU and return the most memory that PyTorch held; the first makes the optimiser state.

    Args:
        trainer: With its network on the GPU.
        batch: On the CPU, as of `made_batch`.
        cuda: `torch.cuda`.
    Returns:
        "peak_bytes", None if the memory did not suffice; "free_bytes" before, "total_bytes", and as `traced_step`.
    """
    cuda.synchronize()
    # what this process holds already counts as free: it is part of the peak
    free, total = cuda.mem_get_info()
    free += cuda.memory_reserved()
    cuda.reset_peak_memory_stats()
    peak = None
    try:
        for _ in range(2):
            trainer.train_step(batch)
        cuda.synchronize()
        peak = int(cuda.max_memory_allocated())
    except torch.cuda.OutOfMemoryError:
        trainer.optimizer.zero_grad(set_to_none=True)
    return {**described(trainer), "peak_bytes": peak, "free_bytes": int(free), "total_bytes": int(total)}


def described(trainer: Any) -> dict[str, Any]:
    """Return the numbers of a trainer: "parameters", "epochs", and bytes of parameters, optimiser and checkpoint."""
    parameters = list(trainer.network.parameters())
    count = sum(parameter.numel() for parameter in parameters)
    parameter_bytes = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    entries = {id(each): each for each in trainer.network.state_dict(keep_vars=True).values()}  # what is shared, once
    state = sum(each.numel() * each.element_size() for each in entries.values())
    optimizer_bytes = parameter_bytes * _copies(trainer.optimizer)
    return {
        "parameters": count,
        "parameter_bytes": parameter_bytes,
        "optimizer_bytes": optimizer_bytes,
        "checkpoint_bytes": state + optimizer_bytes,
        "epochs": int(trainer.num_epochs),
    }


def _copies(optimizer: Any) -> int:
    """Averages that an optimiser keeps of each parameter."""
    settings = optimizer.param_groups[0]
    if isinstance(optimizer, torch.optim.SGD):
        return 1 if settings["momentum"] else 0
    return 3 if settings.get("amsgrad") else 2


def initialised_trainer(task: Mapping[str, Any]) -> Any:
    """Return `prepared_trainer` on the CPU, its network without numbers unless it looks at them when it is made."""
    with contextlib.suppress(RuntimeError, NotImplementedError, TypeError, AttributeError):
        return prepared_trainer(task, _CPU, _META)
    return prepared_trainer(task, _CPU, _CPU)  # one that looks at numbers when it is made


def put_fake_tensors(network: nn.Module) -> None:
    """Put fake tensors in place of all parameters and buffers; to be called in a `FakeTensorMode`."""
    made: dict[int, Tensor] = {}  # what is shared stays shared

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
            is_parameter = isinstance(tensor, nn.Parameter)
            made[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
        return made[id(tensor)]

    for module in list(network.modules()):
        for table in (module._parameters, module._buffers):
            originals: dict[str, Any] = dict(table)  # held, so that no id is given twice
            table.update(tree_map_only(Tensor, fake, originals))


def answer(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is to be known of a task: "problem" and "remedy", or the numbers of a step, "measured" or not.

    Args:
        task: As of `prepared_trainer`, and "device": "cuda", "cpu", "mps" or None (CUDA where there is one).
    """
    found = explain_trainer(task["trainer"])
    if found.state == "problem":
        return {"problem": f"{found.what}: {found.text}", "remedy": found.remedy}
    on_gpu = torch.cuda.is_available() and task["device"] in (None, "cuda")
    device = torch.device("cuda", 0) if on_gpu else _CPU
    try:
        trainer = prepared_trainer(task, device, device) if on_gpu else None
        if trainer is None:
            initialised_trainer(task)
    except torch.cuda.OutOfMemoryError:
        return {"problem": "the GPU has not even the memory for its weights", "remedy": "free the GPU"}
    except Exception as error:  # a foreign trainer fails in any way
        text = (str(error).strip().splitlines() or [""])[0]
        return {"problem": text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}", "remedy": ""}
    try:
        if trainer is not None:
            torch.backends.cudnn.benchmark = True  # as nnUNetv2_train
            return {**measured_step(trainer, made_batch(trainer)), "measured": True}
        free = free_bytes(_CPU) if task["device"] in (None, "cpu") else None
        return {**traced_step(task, mixed=task["device"] == "cuda"), "free_bytes": free, "measured": False}
    except Exception as error:  # that it can be built is known; a step on made data may fail for other reasons
        text = (str(error).strip().splitlines() or [""])[0]
        return {"unknown": f"{type(error).__name__}: {text}", "measured": False}
    finally:
        if on_gpu:
            torch.cuda.empty_cache()


def answer_file(file: Path, answer: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
    """Print the answers to the tasks of a file, one line of JSON each."""
    tasks = json.loads(file.read_text(encoding="utf-8"))
    os.environ[COMPILE_VARIABLE] = "f"  # it would take minutes to start
    warnings.simplefilter("ignore")
    answers = sys.stdout
    for task in tasks:
        with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net prints
            told = json.dumps(answer(task))
        answers.write(f"{told}\n")
        answers.flush()


def main(arguments: list[str]) -> int:
    """Answer the tasks of a file."""
    answer_file(Path(arguments[0]), answer)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
