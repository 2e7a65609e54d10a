"""What weights a patch transformer takes over, and which of them decay."""

import copy
from pathlib import Path

import pytest
import torch

from nnunet_attn.architectures.patch_transformer import PatchTransformer
from nnunet_attn.errors import InputError
from nnunet_attn.training import weights as training_weights
from nnunet_attn.training.weights import fit_weights, import_weights
from tests.made.patch_network import NEIGHBOURHOOD, SIZE, SMALL, assert_equal, image, small

OTHERS = {
    "num_heads": 3,
    "head_dim": 8,
    "norm": "none",
    "scale": "outside",
    "position": "fixed",
    "depth": 3,
    "patch_embed_size": (2, 4, 4),
    "neighbourhood": (5, 3, 3),
}


@pytest.mark.parametrize("option", OTHERS)
def test_weights_of_other_settings_are_refused_before_any_is_loaded(option: str) -> None:
    own, other = small(), small(**{option: OTHERS[option]})
    before = copy.deepcopy(own.state_dict())
    message = rf"{option} is .* there and .* here"
    for strict in (True, False):
        with pytest.raises(ValueError, match=message):
            own.load_state_dict(other.state_dict(), strict=strict)
    with pytest.raises(ValueError, match=message):
        own.check_weights(other.state_dict())
    with pytest.raises(ValueError, match=message):
        fit_weights(own, other.state_dict())
    # as nnU-Net's load_pretrained_weights does it
    merged = {**own.state_dict(), **{k: v for k, v in other.state_dict().items() if k in before and ".seg" not in k}}
    with pytest.raises(ValueError, match=message):
        own.load_state_dict(merged)
    assert all(torch.equal(value, before[key]) for key, value in own.state_dict().items())


def test_weights_that_say_nothing_are_refused_by_a_strict_load() -> None:
    own = small()
    weights = {key: value for key, value in own.state_dict().items() if key != "arch_code"}
    with pytest.raises(RuntimeError, match="arch_code"):
        own.load_state_dict(weights)
    with pytest.raises(ValueError, match="no 'arch_code'"):
        own.check_weights(weights)
    assert fit_weights(own, weights).fresh == ["arch_code"]
    with pytest.raises(ValueError, match=r"has 2 numbers, this network's 13"):
        own.check_weights({"arch_code": torch.tensor([1, 2])})
    own.check_weights(small(chunk_size=3).state_dict())


def test_another_number_of_channels_is_fitted_on_request() -> None:
    one, two = small().state_dict(), small()
    target = PatchTransformer(4, 3, (8, 8, 8), SIZE, NEIGHBOURHOOD, **SMALL).double().eval()
    report = fit_weights(target, one)
    assert report.resampled == ["embed.weight"] and not report.fresh
    two.load_state_dict(one)
    x = image(8, 6, 8)
    with torch.no_grad():
        assert_equal(target(torch.cat([x, x], 1)), two(x))


def test_no_weight_decay_of_positions_norms_and_biases() -> None:
    network = small()
    decayed = {name for name, _ in network.named_parameters()} - network.no_weight_decay()
    layers = ("qkv", "proj", "fc1", "fc2")
    assert decayed == {
        "embed.weight",
        "head.seg_layers.0.weight",
        *(f"stages.{stage}.{layer}.weight" for stage in range(2) for layer in layers),
    }


def test_import_weights_refuses_other_settings_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_weights, "build_target", lambda *_: small())
    file, output = tmp_path / "checkpoint.pth", tmp_path / "imported.pth"
    torch.save({"network_weights": small(num_heads=3, head_dim=8).state_dict()}, file)
    with pytest.raises(InputError, match=r"num_heads is 3 there and 2 here, head_dim is 8 there and 12 here"):
        import_weights("nnunet", file, "1", "3d_fullres", "nnUNetPlans", "nnUNetTrainerPatchTransformer", output)
    assert list(tmp_path.iterdir()) == [file]
    torch.save({"network_weights": small().state_dict()}, file)
    report = import_weights("nnunet", file, "1", "3d_fullres", "nnUNetPlans", "nnUNetTrainerPatchTransformer", output)
    assert not report.fresh and "arch_code" in report.kept
