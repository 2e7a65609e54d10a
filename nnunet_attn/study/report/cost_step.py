"""What `nnunet_attn.study.dry_step` answers, and the operations of a forward pass, counted on tensors without numbers.

`python -m nnunet_attn.study.report.cost_step TASKS.json`; `nnunet_attn.study.report.costs` starts it.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from nnunet_attn.benchmark.measure import forward_flops
from nnunet_attn.study import dry_step


def counted_flops(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return "flops" of one forward pass as in training, and "input_shape": batch (1), channels, patch.

    Args:
        task: As of `nnunet_attn.study.dry_step.prepared_trainer`.
    """
    trainer = dry_step.initialised_trainer(task)
    network = trainer.network
    with FakeTensorMode():
        dry_step.put_fake_tensors(network)
        image = dry_step.made_batch(trainer)["data"][:1]
        flops = forward_flops(network, image)
    return {"flops": int(flops), "input_shape": list(image.shape)}


def answer(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `nnunet_attn.study.dry_step.answer` does, and what `counted_flops` does where that can be done."""
    told = dry_step.answer(task)
    if "problem" in told:
        return told
    try:
        return {**told, **counted_flops(task)}
    except Exception as error:  # a foreign network may refuse tensors without numbers in any way
        text = (str(error).strip().splitlines() or [""])[0]
        return {"unknown": f"operations cannot be counted: {type(error).__name__}: {text}", **told}


def main(arguments: list[str]) -> int:
    """Answer the tasks of a file, one line of JSON each."""
    torch.manual_seed(0)
    dry_step.answer_file(Path(arguments[0]), answer)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
