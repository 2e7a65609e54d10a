import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nnunet_attn.benchmark.comparison import compare
from nnunet_attn.benchmark.measure import paired_ratios, spread
from nnunet_attn.benchmark.speed import main
from nnunet_attn.benchmark.topologies import topology_named, with_patch
from nnunet_attn.benchmark.variants import file_build, registry_build

ROOT = Path(__file__).parents[2]
TINY = ["--topology", "tiny", "--patch", "8", "16", "16", "--batch-size", "1", "--rounds", "5"]
REFERENCE = """
from torch import nn

class Pointwise(nn.Module):
    def __init__(self, channels, classes, deep_supervision):
        super().__init__()
        self.conv = nn.Conv3d(channels, classes, 1)
        self.deep_supervision = deep_supervision

    def forward(self, x):
        return [self.conv(x)] if self.deep_supervision else self.conv(x)

def build(plan, input_channels, num_classes, deep_supervision):
    return Pointwise(input_channels, num_classes, deep_supervision)
"""


def test_command_measures_and_writes_what_it_was_asked_for(tmp_path, capsys):
    slow, out = tmp_path / "slow.py", tmp_path / "speed.json"
    slow.write_text(REFERENCE)
    threads = torch.get_num_threads()
    options = '{"GASAUNet": {"embed_dim": 6, "num_heads": 2}}'
    arguments = [*TINY, "--networks", "GASAUNet", "--options", options, "--reference", str(slow), "--out", str(out)]
    assert main(arguments) == 0
    assert torch.get_num_threads() == threads
    assert "GASAUNet" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.glob("*.*")) == ["slow.py", "speed.json"]

    result = json.loads(out.read_text())
    assert str(tmp_path) not in out.read_text()
    assert result["settings"]["input_shape"] == [1, 1, 8, 16, 16]
    assert result["settings"]["options"]["GASAUNet"] == {"embed_dim": 6, "num_heads": 2}
    assert result["provenance"]["command"].endswith("--reference slow.py --out speed.json")
    assert list(result["networks"]) == ["PlainUNet", "GASAUNet", "slow"]
    assert list(result["ratios"]) == ["GASAUNet", "slow"]

    plain, pointwise = result["networks"]["PlainUNet"], result["networks"]["slow"]
    assert pointwise["parameters"] == 1 * 2 + 2
    assert pointwise["forward_flops"] == 2 * 2 * 8 * 16 * 16  # two classes, one product and one sum a voxel
    assert pointwise["held_bytes"] == 4 * (4 + 8 * 16 * 16)
    assert pointwise["allocated_bytes"]["forward"] == 4 * 2 * 8 * 16 * 16  # the logits
    for kind in ("forward", "step"):
        rounds = plain["seconds"][kind]["rounds"]
        assert len(rounds) == 5
        assert min(rounds) > 0
        assert plain["wall_seconds"][kind] > 0
        pairs = zip(result["networks"]["GASAUNet"]["seconds"][kind]["rounds"], rounds, strict=True)
        assert result["ratios"]["GASAUNet"]["seconds"][kind] == spread([own / other for own, other in pairs])
        assert plain["peak_memory_bytes"][kind] == plain["held_bytes"] + plain["allocated_bytes"][kind]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--patch", "8", "17", "16"], "[8, 17, 16]"),
        (["--rounds", "4"], "--rounds 4; at least 5"),
        (["--batch-size", "0"], "--batch-size 0"),
        (["--topology", "4d"], "'4d'"),
        (["--networks", "NoUNet"], "'NoUNet'"),
        (["--reference-network", "NoUNet"], "'NoUNet'"),
        (["--options", "{"], "not JSON"),
        (["--options", '{"num_heads": 5}'], "it has to be like"),
        (["--options", '{"OtherUNet": {}}'], "OtherUNet, not measured"),
        (["--options", '{"GASAUNet": {"heads": 5}}'], "'heads'"),
        (["--options", '{"PlainUNet": {"heads": 5}}'], "'heads'"),
        (["--options", '{"GASAUNet": {"dropout_rate": "much"}}'], "GASAUNet cannot be built"),
        (["--options", '{"GASAUNet": {"embed_dim": "25"}}'], "embed_dim"),
        (["--reference", "missing.py"], "'missing.py'"),
        (["--precision", "fp8"], "fp8"),
    ],
)
def test_wrong_arguments_end_with_code_2_and_write_nothing(tmp_path, capsys, wrong, message):
    try:
        code = main([*TINY, "--out", str(tmp_path / "speed.json"), *wrong])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_reference_without_build_and_reference_that_builds_nothing(tmp_path, capsys):
    file = tmp_path / "slow.py"
    file.write_text("")
    assert main([*TINY, "--reference", str(file)]) == 2
    assert "does not define build" in capsys.readouterr().err
    file.write_text("def build(plan, input_channels, num_classes, deep_supervision):\n    return 1\n")
    assert main([*TINY, "--reference", str(file)]) == 2
    assert "returned int" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import no_such", "cannot be imported: ModuleNotFoundError: No module named 'no_such' (line 1 of slow.py)"),
        ("\nraise RuntimeError('mine')", "cannot be imported: RuntimeError: mine (line 2 of slow.py)"),
        ("def build(:", "cannot be imported: SyntaxError"),
        ("raise SystemExit(0)", "cannot be imported: SystemExit"),
        ("def build(plan):\n    pass", "failed: TypeError"),
        ("def build(*sizes):\n    return 1 / 0", "failed: ZeroDivisionError: division by zero (line 2 of slow.py)"),
    ],
)
def test_a_reference_that_fails_is_told_with_its_line(tmp_path, capsys, content, message):
    file = tmp_path / "slow.py"
    file.write_text(content)
    assert main([*TINY, "--reference", str(file), "--out", str(tmp_path / "speed.json")]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
    assert "_speed_reference_slow" not in sys.modules or "build" in content
    assert not (tmp_path / "speed.json").exists()


def test_a_reference_may_not_take_the_name_of_a_network(tmp_path, capsys):
    file = tmp_path / "PlainUNet.py"
    file.write_text(REFERENCE)
    assert main([*TINY, "--reference", str(file)]) == 2
    assert "rename the file" in capsys.readouterr().err


def test_missing_folder_is_told_before_measuring(tmp_path, capsys):
    assert main([*TINY, "--out", str(tmp_path / "none" / "speed.json")]) == 2
    assert "create it first" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_without_a_gpu(capsys):
    assert main([*TINY, "--device", "cuda"]) == 2
    assert "PyTorch sees no GPU" in capsys.readouterr().err


def test_bf16_and_two_dimensions():
    topology = with_patch(topology_named("2d-256"), [64, 128])
    builds = {"PlainUNet": registry_build("PlainUNet", topology, {})}
    result = compare(builds, topology, 1, torch.device("cpu"), precision="bf16", wall_rounds=0)
    assert result["networks"]["PlainUNet"]["seconds"]["step"]["median"] > 0
    assert result["ratios"] == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_command_on_cuda(tmp_path):
    out = tmp_path / "speed.json"
    assert main([*TINY, "--device", "cuda", "--precision", "fp16", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["provenance"]["hardware"]["measured_ceilings"]["copy_bytes_per_s"] > 0
    assert result["networks"]["GASAUNet"]["allocated_bytes"]["step"] > 0


@pytest.mark.slow
def test_gasa_costs_next_to_nothing_on_the_paper_topology():
    """The guard of every change: full width, the smallest patch, and a bound that leaves room for a noisy machine."""
    topology = with_patch(topology_named("gasa-paper"), [8, 32, 64])
    topology = replace(topology, batch_size=1)
    builds = {name: registry_build(name, topology, {}) for name in ("PlainUNet", "GASAUNet")}
    ratios = compare(builds, topology, 15, torch.device("cpu"), wall_rounds=0)["ratios"]["GASAUNet"]
    for kind in ("forward", "step"):
        assert ratios["seconds"][kind]["median"] <= 1.10
        assert ratios["peak_memory_bytes"][kind] <= 1.10
        assert ratios["allocated_bytes"][kind] <= 1.10


def test_reference_file_is_built_for_the_topology(tmp_path):
    file = tmp_path / "slow.py"
    file.write_text(REFERENCE)
    network = file_build(file, topology_named("gasa-paper"))(False)
    assert network(torch.zeros(1, 1, 2, 2, 2)).shape == (1, 14, 2, 2, 2)


def test_kept_cpu_result_follows_from_its_rounds_and_meets_its_goal():
    result = json.loads((ROOT / "docs" / "results" / "speed-gasa-cpu.json").read_text())
    assert result["settings"]["rounds"] >= 30
    ratios = result["ratios"]["GASAUNet"]
    for kind in ("forward", "step"):
        own, other = (result["networks"][name]["seconds"][kind]["rounds"] for name in ("GASAUNet", "PlainUNet"))
        assert ratios["seconds"][kind]["median"] == pytest.approx(paired_ratios(own, other)["median"])
        assert ratios["seconds"][kind]["median"] <= 1.02
        assert ratios["peak_memory_bytes"][kind] <= 1.02
