"""The slow GASA-UNet is GASAUNet to the last digit, and the speed command measures it beside the fast one."""

import json
from pathlib import Path

import pytest
import torch

from nnunet_attn.architectures.build import build_network
from nnunet_attn.architectures.registry import network_named
from nnunet_attn.benchmark.speed import main
from nnunet_attn.benchmark.topologies import topology_named, with_patch
from tests.reference import slow_gasa_unet

FILE = Path(slow_gasa_unet.__file__)
TINY = with_patch(topology_named("tiny"), [8, 16, 16])


@pytest.mark.parametrize("deep_supervision", [False, True])
def test_outputs_equal_with_the_same_weights(deep_supervision: bool) -> None:
    sizes = (TINY.input_channels, TINY.num_classes, deep_supervision)
    fast = build_network(network_named("GASAUNet"), TINY.plan, *sizes).double().eval()
    slow = slow_gasa_unet.build(TINY.plan, *sizes).double().eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in fast.parameters():  # the positions too, which start at zero
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    slow.load_state_dict(fast.state_dict())
    x = torch.randn(1, *TINY.input_shape[1:], dtype=torch.float64)
    with torch.no_grad():
        ours, theirs = fast(x), slow(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def test_the_command_measures_it(tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    size = ["--topology", "tiny", "--patch", "8", "16", "16", "--batch-size", "1", "--rounds", "5"]
    assert main([*size, "--reference", str(FILE), "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    fast, slow = result["networks"]["GASAUNet"], result["networks"]["slow_gasa_unet"]
    assert slow["parameters"] == fast["parameters"]
    for kind in ("forward", "step"):
        assert slow["seconds"][kind]["median"] > fast["seconds"][kind]["median"]
