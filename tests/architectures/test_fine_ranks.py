"""FINE under DistributedDataParallel: two processes on the CPU whose crops lie at different places."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import os
import sys
import torch
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel
from nnunet_attn.architectures.fine import FINE, crop_cells

PATCH = (8, 16, 16)
PLACES = ((-32.0, -32.0), (32.0, 32.0))  # of each rank, along axes 1 and 2


def rank_main(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.manual_seed(rank)
    built = FINE(1, 2, PATCH, volume_extent=(8, 80, 80), embed_dim=8, num_heads=2, deep_supervision=True)
    parallel = DistributedDataParallel(built)
    optimizer = torch.optim.SGD(parallel.parameters(), 0.01)
    places = torch.tensor(PLACES[rank]).view(1, 2, 1, 1, 1).expand(2, -1, *PATCH)
    own = crop_cells(torch.tensor([[0.0, *PLACES[rank]]]), PATCH, built.grid)[0]
    for _ in range(2):
        optimizer.zero_grad(set_to_none=True)
        sum(level.square().mean() for level in parallel(torch.cat([torch.randn(2, 1, *PATCH), places], 1))).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in built.parameters())
        assert built.seen[own].all(), "its own are marked before they are used"
        optimizer.step()
    # each rank's crops have reached sub-volumes of their own, and both ranks learn from both
    first = crop_cells(torch.tensor([[0.0, *PLACES[0]], [0.0, *PLACES[1]]]), PATCH, built.grid)
    assert not set(first[0].tolist()) & set(first[1].tolist())
    gradient = built.encoder[0].volume_tokens.grad
    assert (gradient[first.flatten()].abs().amax(1) > 0).all()
    for key, value in built.named_parameters():
        both = [torch.empty_like(value) for _ in range(2)]
        distributed.all_gather(both, value.contiguous())
        assert torch.equal(*both), f"ranks differ in {key}"
    distributed.barrier()
    distributed.destroy_process_group()
    os._exit(0)  # all is asserted; gloo's threads sometimes abort a process while Python shuts down


if __name__ == "__main__":
    multiprocessing.spawn(rank_main, (sys.argv[1],), nprocs=2)
    print("ranks agree")
"""


@pytest.mark.slow
def test_ranks_with_crops_at_different_places(tmp_path: Path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(CODE)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    words = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "ranks agree" in done.stdout
