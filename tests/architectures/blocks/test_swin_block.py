import pytest
import torch
from torch import Tensor, nn

from nnunet_attn.architectures.blocks.swin_block import Down, PatchEmbedding, SkipAttentionBlock, SwinBlock, Up
from tests.made.parity import ParityCase, parity_case
from tests.reference import nnformer, swin
from tests.reference.window_attention import padded, shift_mask

INDEX = "relative_position_index"
BOTH = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def own_names(published: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        key.replace("relative_position_bias_table", "relative_bias"): value
        for key, value in published.items()
        if not key.endswith(INDEX)
    }


def loaded(kind: type[SwinBlock], case: ParityCase, dtype: torch.dtype) -> SwinBlock:
    told = case.meta["configuration"]
    window, shifted = (told["window"],) * 3, told["shift"] > 0
    block = kind(told["width"], told["heads"], told["resolution"], window, shifted, quirk=True)
    block.load_state_dict(own_names(case.state_dict))
    assert torch.equal(block.attn.index, case.state_dict[f"attn.{INDEX}"])
    assert max(block.shift) == told["shift"]
    return block.to(dtype)


@BOTH
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["shift", "shift_padded"])
def test_shifted_block_equals_the_published_one(name: str, training: bool, dtype: torch.dtype) -> None:
    case = parity_case(f"nnformer_block_{name}")
    block = loaded(SwinBlock, case, dtype).train(training)
    assert block.mask is not None
    torch.testing.assert_close(block.mask, case.arrays["attn_mask"].to(dtype), rtol=0, atol=0)
    x = case.arrays["input"].to(dtype)
    case.check("output", block(x))
    with torch.no_grad():
        case.check("output", block(x))


@BOTH
def test_skip_block_equals_the_published_one(dtype: torch.dtype) -> None:
    case = parity_case("nnformer_block_skip")
    block = loaded(SkipAttentionBlock, case, dtype).eval()
    assert isinstance(block, SkipAttentionBlock)
    inputs = [case.arrays[name].to(dtype) for name in ("input_up", "input_skip")]
    case.check("output", block.forward_pair(*inputs))
    with torch.no_grad():
        case.check("output", block.forward_pair(*inputs))


@pytest.mark.parametrize(
    ("size", "window", "shifted"),
    [((2, 6, 5), (4, 3, 2), True), ((4, 4, 3), (2, 2, 3), True), ((3, 4, 5), (2, 4, 8), False)],
)
def test_flat_windows_equal_the_slow_block_with_gradients(size, window, shifted: bool) -> None:
    block = SwinBlock(6, 2, size, window, shifted).double()
    fitted, shift = swin.fitted_window(size, window)
    shift = shift if shifted else (0, 0, 0)
    assert (block.window, block.shift) == (fitted, shift)
    slow = swin.SwinBlock(6, 2, fitted, shift, quirk=False).double()
    names = own_names(dict(slow.named_parameters()))
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            names[name].copy_(parameter.normal_())
    x = torch.randn(2, *size, 6, dtype=torch.float64, requires_grad=True)
    got, expected = block(x), slow(x, shift_mask(padded(size, fitted), fitted, shift, x))
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)
    pull = torch.randn_like(got)
    own = torch.autograd.grad(got, [x, *block.parameters()], pull)
    theirs = torch.autograd.grad(expected, [x, *(names[name] for name, _ in block.named_parameters())], pull)
    for one, other in zip(own, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_windows_are_counted_with_padding() -> None:
    assert SwinBlock(4, 1, (5, 8, 3), (2, 4, 4)).num_windows == 3 * 2 * 1


def test_samples_leave_out_attention_and_mlp_by_themselves() -> None:
    block = SwinBlock(4, 1, (2, 2, 2), (2, 2, 2), drop_path=0.5).double()
    x = torch.randn(400, 2, 2, 2, 4, dtype=torch.float64)
    with torch.no_grad():
        change = (block.eval()(x) - x).flatten(1).abs().sum(1)
        assert (change > 0).all()
        same = ((block.train()(x) - x).flatten(1).abs().sum(1) == 0).double().mean()
    assert 0.15 < same < 0.35, "about a quarter leave out both"
    assert not isinstance(SwinBlock(4, 1, (2, 2, 2), (2, 2, 2)).drop_path, type(block.drop_path))


# ---- between the stages ----


def by_order(module: nn.Module, slow: nn.Module) -> None:
    """Give `slow` the weights of `module`; both have them in the same order within convolutions and within norms."""
    kinds = (nn.Conv3d, nn.ConvTranspose3d), (nn.LayerNorm,)
    for kind in kinds:
        pairs = zip(*([m for m in each.modules() if isinstance(m, kind)] for each in (module, slow)), strict=True)
        for one, other in pairs:
            nn.init.normal_(one.weight)
            other.load_state_dict(one.state_dict())


@pytest.mark.parametrize("embedding", [(4, 4, 4), (2, 4, 4), (1, 2, 4)])
def test_embedding_is_the_published_one(embedding) -> None:
    slow = nnformer.PatchEmbed(2, 4, embedding).double()
    first = tuple(min(2, step) for step in embedding)
    own = PatchEmbedding(2, 4, (first, tuple(e // f for e, f in zip(embedding, first, strict=True)))).double()
    by_order(own, slow)
    x = torch.randn(2, 2, 8, 8, 8, dtype=torch.float64)
    got = own(x)
    assert got.shape == (2, *(8 // step for step in embedding), 4)
    torch.testing.assert_close(got, slow(x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("stride", [(2, 2, 2), (1, 2, 2), (1, 1, 1)])
def test_ways_down_and_up_are_the_published_ones(stride) -> None:
    x = torch.randn(2, 4, 6, 2, 6, dtype=torch.float64)
    small = tuple(size // step for size, step in zip((4, 6, 2), stride, strict=True))
    for overlaps in (True, False):
        own, slow = Down(6, stride, overlaps).double(), nnformer.Downsample(6, stride, overlaps).double()
        by_order(own, slow)
        got = own(x)
        assert got.shape == (2, *small, 12)
        torch.testing.assert_close(got, slow(x), rtol=1e-11, atol=1e-11)
    own, slow = Up(6, stride).double(), nnformer.Upsample(12, stride).double()
    by_order(own, slow)
    torch.testing.assert_close(own(got), slow(got), rtol=1e-11, atol=1e-11)
    assert own(got).shape == x.shape
