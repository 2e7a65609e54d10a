"""torch.compile takes every network as one graph; in processes of their own, without the shape-checking import hook."""

import shutil
import subprocess
import sys

import pytest

from nnunet_attn.architectures.registry import NETWORKS

CODE = """
import sys
import torch
from nnunet_attn.architectures.build import build_network
from nnunet_attn.architectures.registry import network_named
from nnunet_attn.training.precision import carry_precision
from tests.made.plans import KINDS

name, backend, *kinds = sys.argv[1:]
torch.set_num_threads(1)
network = network_named(name)
for kind in kinds:
    plan = KINDS[kind].planned_unet
    if len(plan.patch_size) not in network.dims:
        continue
    # each kind trains under one precision and evaluates under the other: every pair is there once
    first = ("amp", "bf16") if kind == kinds[0] else ("bf16", "amp")
    for precision, deep_supervision in zip(first, (True, False)):
        torch._dynamo.reset()
        torch.manual_seed(0)
        built = build_network(network, plan, 1, 3, deep_supervision, network.small_options)
        built = carry_precision(built, precision).train(deep_supervision)
        image = torch.randn(1, 1, *plan.patch_size)
        # that there is one graph, dynamo alone says; what comes after it is slow, and tried on the first kind
        compiled = torch.compile(built, fullgraph=True, backend=backend if kind == kinds[0] else "eager")
        if deep_supervision:
            levels = compiled(image)
            sum(level.square().mean() for level in levels).backward()
            assert all(p.grad is not None for p in built.parameters())
        else:
            with torch.no_grad():
                difference = (compiled(image) - built(image)).abs().max().item()
            assert difference < (1e-4 if precision == "amp" else 0.1), difference
print("one graph")
"""


def compile_in_own_process(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "one graph" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("network", [network.name for network in NETWORKS])
def test_one_graph_forward_and_backward(network: str) -> None:
    compile_in_own_process(network, "aot_eager", "2d", "anisotropic")


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("c++") or shutil.which("g++")), reason="inductor needs a C++ compiler")
def test_inductor_compiles_a_small_network() -> None:
    compile_in_own_process("GASAUNet", "inductor", "2d")
