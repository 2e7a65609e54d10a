"""Every network under DistributedDataParallel: two ranks on the CPU, with the loss weights that the trainer uses."""

import subprocess
import sys

import pytest

from nnunet_attn.architectures.registry import NETWORKS

CODE = """
import os, sys
import torch
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunet_attn.architectures.build import build_network
from nnunet_attn.architectures.registry import network_named
from tests.made.plans import KINDS


def rank_main(rank, name, kinds, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    network = network_named(name)
    for kind in kinds:
        plan = KINDS[kind].planned_unet
        if len(plan.patch_size) not in network.dims:
            continue
        torch.manual_seed(rank)
        built = build_network(network, plan, 1, 3, True, network.small_options)
        parallel = DistributedDataParallel(built)
        # nnU-Net's weights: halved each level, and next to nothing for the coarsest, so that it has a gradient
        levels = len(getattr(built, "deep_supervision_scales", plan.arch_kwargs["strides"][1:]))
        weights = [1.0] if levels == 1 else [0.5**i for i in range(levels - 1)] + [1e-6]
        loss = DeepSupervisionWrapper(
            DC_and_CE_loss({"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": True}, {},
                           dice_class=MemoryEfficientSoftDiceLoss), weights)
        optimizer = torch.optim.SGD(parallel.parameters(), 0.01, momentum=0.99, nesterov=True, weight_decay=3e-5)
        torch.manual_seed(100 + rank)
        for _ in range(2):
            optimizer.zero_grad(set_to_none=True)
            outputs = parallel(torch.randn(2, 1, *plan.patch_size))
            loss(outputs, [torch.randint(0, 3, (2, 1, *level.shape[2:])) for level in outputs]).backward()
            for key, parameter in built.named_parameters():
                assert parameter.grad is not None and parameter.grad.isfinite().all(), key
            optimizer.step()
        # buffers too, but for batch norms: nnU-Net makes these synchronised, which there is only on CUDA
        for key, value in built.named_parameters():
            both = [torch.empty_like(value) for _ in range(2)]
            distributed.all_gather(both, value.contiguous())
            assert torch.equal(*both), f"ranks differ in {key}"
    distributed.destroy_process_group()


if __name__ == "__main__":
    folder, name, *kinds = sys.argv[1:]
    multiprocessing.spawn(rank_main, (name, kinds, folder), nprocs=2)
    print("ranks agree")
"""


@pytest.mark.slow
@pytest.mark.parametrize("network", [network.name for network in NETWORKS])
def test_two_ranks_agree_and_every_gradient_exists(network: str, tmp_path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(CODE)
    words = [sys.executable, str(script), str(tmp_path), network, "2d", "3d", "anisotropic"]
    done = subprocess.run(words, capture_output=True, text=True, env=_environment(), timeout=600)
    assert done.returncode == 0, done.stderr
    assert "ranks agree" in done.stdout


def _environment() -> dict[str, str]:
    import os
    from pathlib import Path

    root = Path(__file__).resolve().parents[2]
    return {**os.environ, "PYTHONPATH": str(root)}
