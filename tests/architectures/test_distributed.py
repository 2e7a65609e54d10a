"""Every network under DistributedDataParallel: two ranks on the CPU, with the loss weights that the trainer uses.

The same two ranks take all networks, one after the other: to start them costs more than what they do.
"""

import os
import subprocess
import sys
from pathlib import Path

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


def rank_main(rank, names, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for name in names:
        try:
            examine(rank, name)
        except BaseException:
            print(name, "fails", file=sys.stderr, flush=True)
            raise
        if rank == 0:
            print(name, "agrees", flush=True)
    distributed.destroy_process_group()


def examine(rank, name):
    network = network_named(name)
    for kind in ("2d", "3d", "anisotropic"):
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


if __name__ == "__main__":
    folder, *names = sys.argv[1:]
    multiprocessing.spawn(rank_main, (names, folder), nprocs=2)
"""

NAMES = [network.name for network in NETWORKS]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> "subprocess.CompletedProcess[str]":
    """Two ranks that took one network after the other, until one failed."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "ranks.py").write_text(CODE)
    return subprocess.run(
        [sys.executable, str(folder / "ranks.py"), str(folder), *NAMES],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        timeout=600,
    )


@pytest.mark.slow
@pytest.mark.parametrize("network", NAMES)
def test_two_ranks_agree_and_every_gradient_exists(network: str, ranks: "subprocess.CompletedProcess[str]") -> None:
    if f"{network} agrees" in ranks.stdout.splitlines():
        return
    assert f"{network} fails" in ranks.stderr, "not reached: one before it failed"
    pytest.fail(ranks.stderr)


@pytest.mark.slow
def test_the_ranks_end_well(ranks: "subprocess.CompletedProcess[str]") -> None:
    assert ranks.returncode == 0, ranks.stderr
