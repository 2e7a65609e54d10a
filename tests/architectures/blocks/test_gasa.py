import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_attn.architectures.blocks.gasa import POSITIONS, GASABlock, SliceProjection
from tests.reference.gasa import gasa as reference

SIZES = [(2, 3), (3, 4, 2), (1, 1, 1), (1, 5, 2), (4, 1)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def drawn(channels: int, feature_size: tuple[int, ...], **options) -> GASABlock:
    """A block in float64 whose parameters are all drawn, the positions and biases too."""
    block = GASABlock(channels, feature_size, **options).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(std=0.5)
    return block


def projections(block: GASABlock) -> list[SliceProjection]:
    return [project for project in block.projections if isinstance(project, SliceProjection)]


def by_the_reference(block: GASABlock, x: Tensor) -> Tensor:
    norms = [(m.weight, m.bias) if isinstance(m, nn.LayerNorm) else None for m in (block.qkv_norm, block.proj_norm)]
    return reference(
        x,
        [p.weight for p in projections(block)],
        [p.bias for p in projections(block)],
        (block.qkv.weight, block.qkv.bias),
        (block.proj.weight, block.proj.bias),
        block.num_heads,
        block.token_position,
        block.voxel_position,
        *norms,
    )


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("feature_size", SIZES)
def test_equals_the_loops_with_gradients(feature_size, position, norm):
    block = drawn(3, feature_size, embed_dim=4, num_heads=2, position=position, norm=norm).eval()
    x = torch.randn(2, 3, *feature_size, dtype=torch.float64, requires_grad=True)
    got, expected = block(x), by_the_reference(block, x)
    assert got.shape == (2, 3 + 4 * len(feature_size), *feature_size)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)

    inputs = [x, *block.parameters()]
    pull = torch.randn_like(got)
    for ours, theirs in zip(
        torch.autograd.grad(got, inputs, pull), torch.autograd.grad(expected, inputs, pull), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


# specification of the block: parameters 0.2 sin(1, 2, ...), input cos(0, 0.1, 0.2, ...), feature size (3, 4, 5), d = 4
@pytest.mark.parametrize(
    ("position", "total", "total_abs", "values"),
    [
        ("after", 39.05649811, 122.38431899, (0.33086132, 0.08956357, 0.10667571, -0.07445062)),
        ("none", 35.13362927, 107.78432840, (0.16256713, 0.12128811, 0.16255881, -0.20179822)),
        ("before", 35.00008490, 107.92493015, (0.16202048, 0.12129515, 0.16200976, -0.20257326)),
    ],
)
def test_golden_values(position, total, total_abs, values):
    block = GASABlock(3, (3, 4, 5), embed_dim=4, num_heads=2, position=position).double().eval()
    with torch.no_grad():
        for parameter in block.parameters():
            n = torch.arange(1, parameter.numel() + 1, dtype=torch.float64)
            parameter.copy_(0.2 * torch.sin(n).view_as(parameter))
        x = torch.cos(0.1 * torch.arange(3 * 60, dtype=torch.float64)).view(1, 3, 3, 4, 5)
        g = block(x)[:, 3:]
    at = (g[0, 0, 0, 0, 0], g[0, 1, 2, 0, 0], g[0, 4, 0, 1, 0], g[0, 11, 2, 3, 3])
    assert g.sum().item() == pytest.approx(total, abs=1e-7)
    assert g.abs().sum().item() == pytest.approx(total_abs, abs=1e-7)
    assert [v.item() for v in at] == pytest.approx(values, abs=1e-7)


def test_projection_is_a_convolution_that_fills_its_slice():
    block = drawn(3, (3, 4, 5), embed_dim=4, num_heads=2)
    x = torch.randn(2, 3, 3, 4, 5, dtype=torch.float64)
    for axis, project in enumerate(projections(block)):
        convolved = F.conv3d(x, project.weight.unsqueeze(2 + axis), project.bias)
        torch.testing.assert_close(project(x), convolved.flatten(2).transpose(1, 2), rtol=1e-12, atol=1e-12)


def test_projection_is_drawn_he_normal():
    block = GASABlock(64, (6, 6, 6))
    fan_in = 64 * 36
    for project in projections(block):
        assert project.weight.std().item() == pytest.approx((2 / (1 + 0.01**2) / fan_in) ** 0.5, rel=0.02)
        assert not project.bias.any()


@pytest.mark.parametrize("feature_size", [(3, 4, 5), (3, 4)])
def test_new_channels_are_constant_over_slices(feature_size):
    block = drawn(3, feature_size, embed_dim=4, num_heads=2).eval()
    x = torch.randn(2, 3, *feature_size, dtype=torch.float64)
    with torch.no_grad():
        out = block(x)
        assert torch.equal(out[:, :3], x)
        g = out[:, 3:] - block.voxel_position
    for axis, part in enumerate(g.split(4, dim=1)):
        first = part.movedim(2 + axis, 2).flatten(3)[..., :1]
        torch.testing.assert_close(
            part.movedim(2 + axis, 2).flatten(3), first.expand(-1, -1, -1, part[0, 0].numel() // feature_size[axis])
        )
        if feature_size[axis] > 1:
            assert not torch.allclose(first[:, :, 0], first[:, :, 1])


def test_attention_joins_the_axes():
    block = drawn(3, (3, 4, 5), embed_dim=4, num_heads=2, position="none").eval()
    x = torch.randn(1, 3, 3, 4, 5, dtype=torch.float64)
    changed = x.clone()
    changed[:, :, 0] += 1
    with torch.no_grad():
        before, after = (block(image)[:, 3:] for image in (x, changed))
    # The untouched slices x = 1, 2 share no voxel with slice 0: only attention can carry the change to them.
    assert not torch.allclose(before[:, :4, 1:], after[:, :4, 1:])
    assert not torch.allclose(before[:, 4:8], after[:, 4:8])
    assert not torch.allclose(before[:, 8:], after[:, 8:])


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("feature_size", [(6, 6, 6), (4, 7)])
def test_gradients_reach_every_voxel_and_parameter(feature_size, norm, position):
    # 16 of 216 voxels have no gradient in the authors' code, whose kernels are shifted by a padding
    block = GASABlock(3, feature_size, position=position, norm=norm)
    x = torch.randn(1, 3, *feature_size, requires_grad=True)
    g = block(x)[:, 3:]
    (g * torch.randn_like(g)).sum().backward()
    assert x.grad is not None
    assert (x.grad != 0).all()
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_positions_start_neutral():
    blocks = {position: GASABlock(3, (2, 3, 4), position=position).eval() for position in POSITIONS}
    shared = blocks["none"].state_dict()
    x = torch.randn(2, 3, 2, 3, 4)
    outs = []
    for block in blocks.values():
        missing, unexpected = block.load_state_dict(shared, strict=False)
        assert not unexpected
        assert all("position" in name for name in missing)
        outs.append(block(x))
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(outs[0], outs[2])


@pytest.mark.parametrize("position", POSITIONS)
def test_dropout_zeroes_half_of_the_new_channels_and_doubles_the_rest(position):
    block = drawn(3, (8, 8, 8), embed_dim=20, num_heads=5, position=position)
    if position == "before":
        # its second dropout, on the tokens, would change the values compared below
        block.qkv.weight.data.zero_()
    x = torch.randn(1, 3, 8, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        full, thinned = block.eval()(x), block.train()(x)
    assert torch.equal(thinned[:, :3], x)
    kept = thinned[:, 3:] != 0
    assert kept.double().mean().item() == pytest.approx(0.5, abs=0.02)
    torch.testing.assert_close(thinned[:, 3:][kept], 2 * full[:, 3:][kept])


def test_before_drops_elements_of_the_tokens():
    block = drawn(3, (8, 8, 8), embed_dim=20, num_heads=5, position="before").train()
    seen = []
    block.qkv.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    block(torch.randn(1, 3, 8, 8, 8, dtype=torch.float64))
    assert (seen[0] == 0).double().mean().item() == pytest.approx(0.5, abs=0.1)


def test_no_dropout_at_rate_zero():
    block = GASABlock(3, (2, 3, 4), dropout_rate=0.0)
    x = torch.randn(1, 3, 2, 3, 4)
    assert torch.equal(block.train()(x), block.eval()(x))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("position", POSITIONS)
def test_autocast_keeps_low_precision(position, norm):
    block = GASABlock(3, (2, 3, 4), position=position, norm=norm).eval()
    x = torch.randn(2, 3, 2, 3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = block(x.bfloat16())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), block(x), rtol=0.05, atol=0.05)


def test_half_precision_does_not_overflow():
    # q k^T of these tokens exceeds 65504 before the scale; the products must stay finite in float16
    block = GASABlock(3, (2, 3, 4), embed_dim=10, num_heads=2).half().eval()
    products = []

    def record(_module, _args, packed):
        query, key, _ = packed.float().unflatten(-1, (3, 2, 5)).unbind(2)
        products.append(torch.einsum("bnhe,bmhe->bhnm", query, key).abs().max())

    block.qkv.register_forward_hook(record)
    with torch.no_grad():
        block.qkv.weight.mul_(300)
        out = block(torch.ones(1, 3, 2, 3, 4, dtype=torch.float16))
    assert products[0] > torch.finfo(torch.float16).max
    assert torch.isfinite(out).all()


def test_is_copied_and_moved_whole():
    block = GASABlock(3, (2, 3)).eval()
    x = torch.randn(1, 3, 2, 3)
    assert torch.equal(copy.deepcopy(block)(x), block(x))
    with torch.device("meta"):
        assert GASABlock(320, (6, 6, 6))(torch.empty(2, 320, 6, 6, 6)).shape == (2, 395, 6, 6, 6)


def test_counts_feature_map_values():
    # 2+3+4 tokens of width 10, in projection (1x), attention (3x) and output (1x); 3 axes x 10 channels of 24 voxels
    assert GASABlock(3, (2, 3, 4), embed_dim=10).compute_conv_feature_map_size() == 9 * 10 * 5 + 30 * 24


@pytest.mark.parametrize("shape", [(1, 4, 2, 3, 4), (1, 3, 2, 3, 5), (1, 3, 4, 3, 2), (1, 3, 2, 3), (1, 3, 2, 3, 4, 1)])
def test_another_size_is_refused_with_both_sizes(shape):
    block = GASABlock(3, (2, 3, 4))
    with pytest.raises(ValueError, match=r"GASA was built for .*\(3, 2, 3, 4\)") as raised:
        block(torch.zeros(shape))
    assert f"got {shape[1:]}" in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, r"channels must be an integer of at least 1, got 0"),
        ({"feature_size": (2,)}, r"feature_size must have 2 or 3 numbers, got \(2,\)"),
        ({"feature_size": (2, 3, 4, 5)}, r"2 or 3 numbers, got \(2, 3, 4, 5\)"),
        ({"feature_size": (2, 0, 4)}, r"feature_size\[1\] must be an integer of at least 1, got 0"),
        ({"embed_dim": -5}, r"embed_dim must be an integer of at least 1, got -5"),
        ({"num_heads": 0}, r"num_heads must be an integer of at least 1, got 0"),
        ({"num_heads": 4}, r"num_heads must divide embed_dim, got 4 heads for 25 dims"),
        ({"position": "APE"}, r"position must be one of after, before, none, got 'APE'"),
        ({"dropout_rate": 1.0}, r"dropout_rate must be a number of at least 0 and less than 1, got 1.0"),
        ({"dropout_rate": -0.1}, r"dropout_rate must be a number of at least 0 and less than 1, got -0.1"),
    ],
)
def test_illegal_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        GASABlock(**{"channels": 3, "feature_size": (2, 3, 4), **options})
