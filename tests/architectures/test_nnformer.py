"""nnFormer and the network of its first publication: sizes, costs, gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nnunet_attn.architectures.blocks.swin_block import SkipAttentionBlock, SwinBlock
from nnunet_attn.architectures.build import PlannedUNet
from nnunet_attn.architectures.nnformer import NNFormer, NNFormer2021
from nnunet_attn.benchmark.measure import forward_flops

BOTH = pytest.mark.parametrize("kind", [NNFormer, NNFormer2021])
BCV = (64, 128, 128)
PATCH = (8, 32, 32)  # maps of 8 voxels along each axis, then of 4
BLOCKS = [2, 2, 2, 2, 2, 2, 2]  # of the encoder's stages, then of the decoder's, deepest first


def small(kind: type[NNFormer], **options) -> Any:
    torch.manual_seed(0)
    return kind(2, 3, PATCH, 8, 2, deep_supervision=True, **options)


def on_meta(kind: type[NNFormer], classes: int = 9, **options) -> Any:
    with torch.device("meta"):
        return kind(1, classes, BCV, deep_supervision=True, **options).eval().requires_grad_(False)


def flops(module: nn.Module, *inputs: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs)
    return counter.get_total_flops()


# ---- what the publications say ----


def test_parameters_are_as_many_as_published() -> None:
    count = {classes: sum(p.numel() for p in on_meta(NNFormer, classes).parameters()) for classes in (9, 14)}
    assert count == {9: 149_839_155, 14: 150_054_210}
    # without what the published code builds and never uses: the way down behind the last stage, 2x2x2 from 1536 to
    # 3072 channels with its norm; its unused output layer is used here
    dead = 1536 * 3072 * 8 + 3072 + 2 * 1536
    assert sum(p.numel() for p in on_meta(NNFormer2021).parameters()) == 158_992_755 - dead


def test_blocks_have_as_many_parameters_as_their_formula() -> None:
    for stage, blocks in enumerate(on_meta(NNFormer2021).encoder):
        c, heads = 192 * 2**stage, 6 * 2**stage
        assert [sum(p.numel() for p in block.parameters()) for block in blocks.blocks] == [
            12 * c**2 + 13 * c + 343 * heads
        ] * 2


def test_operations_are_those_of_the_formulas() -> None:
    """Multiplications and additions count as 2, at the size published for BCV."""
    network = on_meta(NNFormer2021)
    widths = [192, 384, 768, 1536]
    voxels, window = [32**3, 16**3, 8**3, 4**3], 64
    attention = [4 * c**2 * n + 2 * c * n * window for c, n in zip(widths, voxels, strict=True)]
    mlp = [8 * c**2 * n for c, n in zip(widths, voxels, strict=True)]
    for stage, blocks in enumerate(network.encoder):
        side, c = 32 // 2**stage, widths[stage]
        x = torch.empty(1, side, side, side, c, device="meta")
        assert [flops(block, x) for block in blocks.blocks] == [2 * (attention[stage] + mlp[stage])] * 2
    # stages 0 to 2 are there twice, with two blocks each time
    blocks = sum(2 * (a + m) * n for a, m, n in zip(attention, mlp, (4, 4, 4, 2), strict=True))
    assert blocks == 218_691_010_560
    half = 32 * 64 * 64
    stem = 2 * 27 * (half * 96 * (1 + 96) + voxels[0] * 192 * (96 + 192))
    down = sum(2 * 8 * voxels[s + 1] * widths[s] * widths[s + 1] for s in range(3))
    up = sum(2 * voxels[s] * widths[s] * widths[s + 1] for s in range(3))
    outputs = 2 * 9 * (voxels[0] * 192 * 32 + voxels[1] * 384 * 64 + voxels[2] * 768 * 64)
    total = flops(network, torch.empty(1, 1, *BCV, device="meta"))
    assert total == blocks + stem + down + up + outputs == 405_245_263_872
    # the published code goes down once more behind the last stage, to 2^3 voxels of 3072 channels
    assert total + 2 * 8 * 2**3 * 1536 * 3072 == 405_849_243_648
    assert on_meta(NNFormer2021).decoder.deep_supervision


def test_windows_and_blocks_are_the_published_ones() -> None:
    today, first = on_meta(NNFormer), on_meta(NNFormer2021)
    encoder = [[block.window[0] for block in stage.blocks] for stage in today.encoder]
    assert encoder == [[4, 4], [4, 4], [8, 8], [4, 4]]
    assert [[block.window[0] for block in stage.blocks] for stage in today.decoder.stages] == [[8, 8], [4, 4], [4, 4]]
    assert {block.window for stage in (*first.encoder, *first.decoder.stages) for block in stage.blocks} == {(4, 4, 4)}
    assert [[block.shift[0] for block in stage.blocks] for stage in today.encoder] == [[0, 2], [0, 2], [0, 0], [0, 0]]
    assert [[block.shift[0] for block in stage.blocks] for stage in today.decoder.stages] == [[0, 0], [0, 2], [0, 2]]
    assert [[block.shift[0] for block in stage.blocks] for stage in first.decoder.stages] == [[0, 2], [0, 2], [0, 2]]
    assert [[type(block) for block in stage.blocks] for stage in today.decoder.stages] == [
        [SkipAttentionBlock, SwinBlock]
    ] * 3
    assert [layer.kernel_size for layer in today.decoder.seg_layers] == [(2, 4, 4)] * 3
    assert [layer.kernel_size for layer in first.decoder.seg_layers] == [(2, 4, 4), (4, 4, 4), (4, 4, 4)]
    scales = [[1, 1, 1], [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]]
    assert today.deep_supervision_scales == scales
    assert first.deep_supervision_scales == [[1, 1, 1], [1, 0.5, 0.5], [0.5, 0.25, 0.25]]
    assert {way.conv.kernel_size for way in today.down} == {(3, 3, 3)}
    assert {way.conv.kernel_size for way in first.down} == {(2, 2, 2)}
    assert all(block.attn.num_heads * 32 == block.attn.channels for stage in today.encoder for block in stage.blocks)


@BOTH
def test_rates_of_leaving_out_rise_through_encoder_and_decoder(kind: type[NNFormer]) -> None:
    network = small(kind, drop_path=0.14)

    def rates(stages: Any) -> list[float]:
        return [getattr(block.drop_path, "drop_prob", 0.0) for stage in stages for block in stage.blocks]

    assert rates(network.encoder) == pytest.approx([0.02 * number for number in range(8)])
    assert rates(network.decoder.stages) == pytest.approx([0.028 * number for number in range(6)])


# ---- as networks ----


@BOTH
@pytest.mark.parametrize("options", [{}, {"depths": (1, 1, 3, 1), "decoder_depths": (3, 1, 1)}, {"quirk": True}])
def test_a_training_step_reaches_every_parameter(kind: type[NNFormer], options) -> None:
    network = small(kind, **options)
    levels = network(torch.randn(2, 2, *PATCH))
    torch.stack([level.square().mean() for level in levels]).sum().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without


@BOTH
def test_evaluation_without_gradients_is_the_same_function(kind: type[NNFormer]) -> None:
    network = small(kind).double().eval()
    x = torch.randn(2, 2, *PATCH, dtype=torch.float64)
    with_gradients = network(x)
    for _ in range(2):  # biases and masks are computed, then kept
        with torch.no_grad():
            for level, other in zip(network(x), with_gradients, strict=True):
                torch.testing.assert_close(level, other, rtol=1e-11, atol=1e-12)
    single = [network(one[None])[0] for one in x]
    torch.testing.assert_close(torch.cat(single), with_gradients[0], rtol=1e-11, atol=1e-12)


@BOTH
def test_relative_biases_get_no_weight_decay(kind: type[NNFormer]) -> None:
    network = small(kind)
    tables = {name for name, _ in network.named_parameters() if "relative_bias" in name}
    assert network.no_weight_decay() == tables
    assert len(tables) == sum(BLOCKS)


@BOTH
def test_the_plan_decides_patch_and_width(kind: type[NNFormer]) -> None:
    for patch, width in ((BCV, 192), ((32, 64, 64), 96)):
        plan = PlannedUNet(patch_size=patch, network_class_name="", arch_kwargs={})
        assert kind.plan_arguments(plan) == {"patch_size": list(patch), "embed_dim": width}


@BOTH
def test_operations_do_not_depend_on_the_device_that_counts(kind: type[NNFormer]) -> None:
    network, shape = small(kind).eval(), (1, 2, *PATCH)
    counted = forward_flops(network, torch.zeros(shape))
    assert counted == forward_flops(small(kind).to("meta").eval(), torch.zeros(shape, device="meta"))
