"""Statistics of the similarities over ranks: two processes on the CPU, with different numbers of lines."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import os
import sys
import torch
from torch import distributed, multiprocessing, nn
from nnunet_attn.architectures.blocks.axial_attention import GatedAxialAttention
from nnunet_attn.architectures.blocks.axial_statistics import similarity_statistics

LINES = (3, 5)  # of each rank


def same(own, expected):
    torch.testing.assert_close(own, expected, rtol=1e-9, atol=1e-11)


def total(tensor):
    tensor = tensor.clone()
    distributed.all_reduce(tensor)
    return tensor


def statistics(rank, positions):
    torch.manual_seed(0)
    packed = torch.randn(sum(LINES), 2, 8, 6, dtype=torch.float64) + 0.5
    packed[: LINES[0]] *= 3  # what a rank sees alone is not what all see
    table = torch.randn(8, 11, dtype=torch.float64, requires_grad=True) if positions else None
    terms = 3 if positions else 1
    weight = torch.rand(terms * 2, dtype=torch.float64, requires_grad=True)
    pulls = torch.randn(2, terms, 2, dtype=torch.float64)
    shared = [weight] if table is None else [weight, table]

    whole = packed.clone().requires_grad_()
    expected = similarity_statistics(whole, table, weight, 1e-5)
    expected_gradients = torch.autograd.grad((expected[0] * pulls.sum(0)).sum(), [whole, *shared])

    own = packed.split(LINES)[rank].clone().requires_grad_()
    got = similarity_statistics(own, table, weight, 1e-5, synchronise=True)
    for mine, all_of_it in zip(got, expected):
        same(mine, all_of_it)
    assert not torch.allclose(similarity_statistics(own, table, weight, 1e-5)[2], expected[2], rtol=0.1)
    mine, *of_shared = torch.autograd.grad((got[0] * pulls[rank]).sum(), [own, *shared])
    same(mine, expected_gradients[0].split(LINES)[rank])
    for gradient, all_of_it in zip(of_shared, expected_gradients[1:]):
        same(total(gradient), all_of_it)


def layer(rank, variant):
    torch.manual_seed(0)
    x = torch.randn(sum(LINES), 8, 6, dtype=torch.float64) + 0.5
    plain = GatedAxialAttention(8, 0, 6, 2, variant).double()
    assert not plain.synchronises, "norms beside it are of one rank"
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(plain)
    assert converted.synchronises
    alone = GatedAxialAttention(8, 0, 6, 2, variant).double()
    alone.load_state_dict(converted.state_dict())
    # the norms beside it are another's business, and PyTorch's synchronised ones need CUDA
    for each in (alone, converted):
        each.bn_qkv.forward = each.bn_output.forward = lambda values: values
    expected, own = alone(x), converted(x.split(LINES)[rank])
    same(own, expected.split(LINES)[rank])
    for key, value in alone.bn_similarity.state_dict().items():
        same(converted.bn_similarity.state_dict()[key], value)


def rank_main(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for positions in (True, False):
        statistics(rank, positions)
    for variant in ("gated", "plain", "no_position"):
        layer(rank, variant)
    distributed.barrier()  # no rank leaves while another still talks to it
    distributed.destroy_process_group()
    os._exit(0)  # all is asserted; gloo's threads sometimes abort a process while Python shuts down


if __name__ == "__main__":
    multiprocessing.spawn(rank_main, (sys.argv[1],), nprocs=2)
    print("ranks agree")
"""


@pytest.mark.slow
def test_statistics_of_two_ranks_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(CODE)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    words = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "ranks agree" in done.stdout
