"""torch.compile takes every network as one graph; in a process of its own, without the shape-checking import hook."""

import shutil
import subprocess
import sys
from collections.abc import Sequence

import pytest

from nnunet_attn.architectures.registry import NETWORKS

CODE = """
import sys
import traceback
import torch
from nnunet_attn.architectures.build import build_network
from nnunet_attn.architectures.registry import network_named
from nnunet_attn.training.precision import carry_precision
from tests.made.plans import KINDS

torch.set_num_threads(1)


def examine(network, backend, kinds):
    kinds = [kind for kind in kinds if len(KINDS[kind].planned_unet.patch_size) in network.dims]
    for kind in kinds:
        plan = KINDS[kind].planned_unet
        # each kind trains under one precision and evaluates under the other: every pair is there once
        first = ("amp", "bf16") if kind == kinds[0] else ("bf16", "amp")
        for precision, deep_supervision in zip(first, (True, False)):
            torch._dynamo.reset()
            torch.manual_seed(0)
            built = build_network(network, plan, 1, 3, deep_supervision, network.small_options)
            built = carry_precision(built, precision).train(deep_supervision)
            image = torch.randn(1, 1, *plan.patch_size)
            compiled = torch.compile(built, fullgraph=True, backend=backend)
            if deep_supervision:
                levels = compiled(image)
                sum(level.square().mean() for level in levels).backward()
                assert all(p.grad is not None for p in built.parameters())
            else:
                with torch.no_grad():
                    difference = (compiled(image) - built(image)).abs().max().item()
                assert difference < (1e-4 if precision == "amp" else 0.1), difference


names, backend, *kinds = sys.argv[1:]
for name in names.split(","):
    try:
        examine(network_named(name), backend, kinds)
    except Exception:
        print(name, "fails", flush=True)
        traceback.print_exc()
    else:
        print(name, "is one graph", flush=True)
"""

NAMES = [network.name for network in NETWORKS]


def compile_in_own_process(names: Sequence[str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", CODE, ",".join(names), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=1800)


@pytest.fixture(scope="module")
def compiled() -> "subprocess.CompletedProcess[str]":
    """All networks, one after the other in one process, which takes longer to start than one of them to compile."""
    return compile_in_own_process(NAMES, "aot_eager", "2d", "anisotropic")


@pytest.mark.slow
@pytest.mark.parametrize("network", NAMES)
def test_one_graph_forward_and_backward(network: str, compiled: "subprocess.CompletedProcess[str]") -> None:
    assert f"{network} is one graph" in compiled.stdout.splitlines(), compiled.stderr


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("c++") or shutil.which("g++")), reason="inductor needs a C++ compiler")
def test_inductor_compiles_a_small_network() -> None:
    done = compile_in_own_process(["GASAUNet"], "inductor", "2d")
    assert done.returncode == 0, done.stderr
    assert "GASAUNet is one graph" in done.stdout, done.stderr
