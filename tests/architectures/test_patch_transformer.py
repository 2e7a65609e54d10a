"""The patch transformer: equal to the evaluation of one block after the other."""

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nnunet_attn.architectures.patch_transformer import PatchTransformer
from tests.made.patch_network import NEIGHBOURHOOD, SIZE, SMALL, assert_equal, image, slow, small
from tests.reference.patch_transformer import SlowPatchTransformer

VARIANTS = list(itertools.product(("pre", "post", "none"), ("inside", "outside")))


@pytest.mark.parametrize(("norm", "scale"), VARIANTS)
def test_dense_slabs_and_valid_equal_one_block_after_the_other(norm: str, scale: str) -> None:
    network, x = small(norm=norm, scale=scale), image(10, 7, 8)  # 3, 4 and 2 patches, two axes not filled
    with torch.no_grad():
        expected = slow(network)(x)
        assert_equal(network(x), expected)
        for planes in (1, 2, None):
            assert_equal(network.grid_forward(x, planes), expected)
        (lower, right), halo = (network.halo[0], network.halo[2]), network.halo
        padded = F.pad(x, (right, right, halo[1], halo[1] + 1, lower, lower + 2))
        assert_equal(network(padded, valid=True)[..., :10, :7, :], expected)  # pyright: ignore[reportCallIssue]
    assert halo == (4, 4, 4)


@pytest.mark.parametrize(
    "options",
    [
        {"position": "fixed"},
        {"position": "none"},
        {"output": "flatten"},
        {"output": "flatten", "norm": "post"},
        {"depth": 1},
        {"neighbourhood": 1},
        {"patch_embed_size": 3, "neighbourhood": 3},
    ],
    ids=str,
)
def test_every_option_equals_one_block_after_the_other(options: dict[str, Any]) -> None:
    network, x = small(**options), image(6, 5, 4)
    with torch.no_grad():
        assert_equal(network(x), slow(network)(x))


@pytest.mark.parametrize(("norm", "scale"), [("pre", "inside"), ("post", "outside")])
def test_2d_equals_one_block_after_the_other(norm: str, scale: str) -> None:
    two = {"patch_size": (8, 8), "patch_embed_size": (4, 3), "neighbourhood": (3, 5), "norm": norm, "scale": scale}
    network, x = small(**two), image(10, 8)
    with torch.no_grad():
        expected = slow(network)(x)
        assert_equal(network(x), expected)
        assert_equal(network.grid_forward(x[1], 1), expected[1])


def test_a_shifted_grid_is_that_of_an_image_with_zeros_in_front() -> None:
    network, x = small(), image(9, 6, 8)
    with torch.no_grad():
        expected: Any = network(F.pad(x, (3, 0, 1, 0, 2, 0)))
        for planes in (1, 2, None):
            assert_equal(network.grid_forward(x, planes, offset=(2, 1, 3)), expected[..., 2:, 1:, 3:])
        assert not torch.allclose(network.grid_forward(x), expected[..., 2:, 1:, 3:], atol=1e-2)


def test_the_inside_of_a_crop_on_the_grid_is_that_of_the_image() -> None:
    network, x = small(), image(20, 14, 16, batch=1)
    with torch.no_grad():
        whole = network.grid_forward(x)
        crop = x[:, :, 4:20, 2:14, 0:12]
        assert_equal(network(crop, valid=True), whole[:, :, 8:16, 6:10, 4:8])


@pytest.mark.parametrize("norm", ["pre", "post", "none"])
def test_a_blank_centre_is_a_centre_patch_of_zeros(norm: str) -> None:
    network, x = small(norm=norm), image(8, 6, 8)
    reference = slow(network)
    centre = reference.patches()[(len(reference.patches()) - 1) // 2]
    with torch.no_grad():
        ours: Any = network(x, blank_centre=True)
        for sample, logits in zip(x, ours, strict=True):
            for cell, block in reference.blocks(sample):
                block = block.clone()
                block[(slice(None), *centre)] = 0
                own = tuple(slice(p * size, (p + 1) * size) for p, size in zip(cell, SIZE, strict=True))
                assert_equal(logits[(slice(None), *own)], reference.block(block)[0])
        assert not torch.allclose(ours, network(x), atol=1e-2)
        blind: Any = network(image(12, 10, 12), valid=True, blank_centre=True)
        changed = image(12, 10, 12)
        changed[:, :, 4:8, 4:6, 4:8] += 5
        assert torch.equal(network(changed, valid=True, blank_centre=True), blind), "it must not see what it predicts"


@pytest.mark.parametrize("options", [{}, {"output": "flatten"}, {"norm": "post", "position": "none"}], ids=str)
def test_chunks_and_checkpointing_change_nothing(options: dict[str, Any]) -> None:
    def run(**more: Any) -> tuple[Tensor, dict[str, Tensor]]:
        network = small(**options, **more).train()
        logits: Any = network(image(8, 6, 8))
        logits.square().mean().backward()
        return logits, {name: value.grad for name, value in network.named_parameters() if value.grad is not None}

    logits, gradients = run()
    for more in (
        {"chunk_size": 1},
        {"chunk_size": 5},
        {"checkpointing": True},
        {"checkpointing": True, "chunk_size": 7},
    ):
        others, their_gradients = run(**more)
        torch.testing.assert_close(others, logits, rtol=0, atol=1e-12)
        assert their_gradients.keys() == gradients.keys() == dict(small(**options).named_parameters()).keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(their_gradients[name], gradient, rtol=1e-10, atol=1e-12, msg=name)


def test_checkpointing_keeps_less_for_the_backward_pass() -> None:
    def kept(checkpointing: bool) -> int:
        values = 0

        def count(x: Tensor) -> Tensor:
            nonlocal values
            values += x.numel()
            return x

        network = small(checkpointing=checkpointing, depth=4).train()
        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            network(image(8, 8, 8))
        return values

    assert kept(True) < kept(False) / 3


def test_gradients_equal_those_of_one_block_after_the_other() -> None:
    network, x = small(), image(6, 5, 8, batch=1)
    loss: Any = network(x)
    loss.square().sum().backward()
    twin = small()
    state = {name: value for name, value in twin.named_parameters()}
    reference = SlowPatchTransformer(state, SIZE, NEIGHBOURHOOD, 2, position=state["position_embedding"])
    reference(x).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, state[name].grad, rtol=1e-9, atol=1e-10, msg=name)


def test_tables_are_not_in_the_checkpoint_and_are_bounded() -> None:
    network = small()
    before = set(network.state_dict())
    with torch.no_grad():
        for size in range(1, 14):
            network(image(4 * size, 2, 4, batch=1))
    assert set(network.state_dict()) == before
    assert 0 < len(network._index) <= 8
    other = PatchTransformer(2, 3, (64, 32, 128), SIZE, NEIGHBOURHOOD, **SMALL).double()
    other.load_state_dict(network.state_dict())
    moved = copy.deepcopy(network).to(torch.float32)
    assert len(moved._index) == 0
    with torch.inference_mode():
        network(image(8, 2, 4))
    logits: Any = network(image(8, 2, 4))  # with the table that inference mode asked for first
    logits.sum().backward()


def test_a_cached_table_is_taken_again() -> None:
    network = small()
    first = network._index.of((4, 6, 5), torch.device("cpu"))
    assert network._index.of((4, 6, 5), torch.device("cpu"))[0] is first[0]
    assert network._index.of((4, 6, 5), torch.device("meta"))[0].is_meta


def test_half_precision_is_close() -> None:
    network, x = small().float(), image(8, 6, 8).float()
    with torch.no_grad():
        full: Any = network(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low: Any = network(x)
    assert (low.float() - full).abs().max() < 0.05 * full.abs().max()


def test_dropout_drops_in_training_only() -> None:
    network, x = small(dropout=0.5), image(8, 6, 8)
    with torch.no_grad():
        assert torch.equal(network(x), network(x))
        network.train()
        assert not torch.equal(network(x), network(x))


@pytest.mark.gpu
def test_on_cuda_it_is_the_same() -> None:
    network, x = small(), image(20, 14, 16)
    with torch.no_grad():
        expected: Any = network(x)
        network.cuda()
        assert_equal(network.grid_forward(x), expected)
        assert_equal(network(x.cuda()).cpu(), expected)  # pyright: ignore[reportAttributeAccessIssue]
        for ours, theirs in zip(network.attention_grid(x[0]), small().attention_grid(x[0]), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    network.float().train()
    with torch.autocast("cuda"):
        logits: Any = network(x.float().cuda())
    assert (logits.float().cpu() - expected).abs().max() < 0.05 * expected.abs().max()
    logits.float().square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
