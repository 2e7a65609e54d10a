import json

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

from nnunet_attn.architectures.blocks.gasa import SliceProjection
from nnunet_attn.architectures.build import PlannedUNet, build_network, build_planned_unet, resolve_classes
from nnunet_attn.architectures.gasa_unet import GASAUNet
from nnunet_attn.architectures.registry import network_named

PLAIN = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
RESIDUAL = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
CLASSES = ("conv_op", "norm_op", "dropout_op", "nonlin")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def unet_arguments(dims: int, features: list[int], strides: list, kernels: list, blocks: str = "n_conv_per_stage"):
    return {
        "n_stages": len(features),
        "features_per_stage": features,
        "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
        "kernel_sizes": kernels,
        "strides": strides,
        blocks: [2] * len(features),
        "n_conv_per_stage_decoder": [2] * (len(features) - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }


def small_plan(dims: int = 3, residual: bool = False) -> PlannedUNet:
    """Patch (8, 16, 24) or (16, 24), bottleneck (4, 4, 6) or (4, 6)."""
    strides = [[1, 1, 1], [1, 2, 2], [2, 2, 2]] if dims == 3 else [[1, 1], [2, 2], [2, 2]]
    kernels = [[1, 3, 3], [3, 3, 3], [3, 3, 3]] if dims == 3 else [[3, 3]] * 3
    blocks = "n_blocks_per_stage" if residual else "n_conv_per_stage"
    arguments = unet_arguments(dims, [4, 6, 8], strides, kernels, blocks)
    return PlannedUNet((8, 16, 24)[-dims:], RESIDUAL if residual else PLAIN, arguments)


def small(dims: int = 3, residual: bool = False, **options) -> GASAUNet:
    plan = small_plan(dims, residual)
    return GASAUNet(input_channels=2, num_classes=3, **{**GASAUNet.plan_arguments(plan), **options})


# ---- what the paper's Table 4 counts; all sizes from the specification ----

FEATURES = [32, 64, 128, 256, 320, 320]
K133, K333 = [1, 3, 3], [3, 3, 3]
S111, S122, S222 = [1, 1, 1], [1, 2, 2], [2, 2, 2]
TOPOLOGIES = {  # patch, strides, kernels, parameters of the plain U-Net for 14 classes
    "paper": ((48, 192, 192), [S111, S122, S122, S222, S222, S222], [K133] * 2 + [K333] * 4, 30_758_214),
    "btcv": ((48, 192, 192), [S111, S122, S222, S222, S222, S122], [K133] + [K333] * 5, 30_713_158),
    "kits": ((128, 128, 128), [S111] + [S222] * 5, [K333] * 6, 31_205_254),
    "amos": ((64, 160, 192), [S111] + [S222] * 4 + [S122], [K333] * 6, 30_795_654),
}


def planned(topology: str) -> PlannedUNet:
    patch, strides, kernels, _ = TOPOLOGIES[topology]
    return PlannedUNet(patch, PLAIN, unet_arguments(3, FEATURES, strides, kernels))


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def added_parameters(topology: str, **options) -> int:
    plan = planned(topology)
    with torch.device("meta"):
        with_gasa = GASAUNet(1, 14, **{**GASAUNet.plan_arguments(plan), **options})
        plain = build_planned_unet(plan, 1, 14)
    assert parameters(plain) == TOPOLOGIES[topology][3]
    return parameters(with_gasa) - parameters(plain)


@pytest.mark.parametrize(
    ("topology", "deltas"),
    [
        ("paper", (423_086, 1_058_891, 2_122_566, 4_264_916)),
        ("btcv", (384_686, 962_891, 1_930_566, 3_880_916)),
        ("kits", (230_934, 578_739, 1_162_414, 2_344_764)),
        ("amos", (275_790, 690_795, 1_386_470, 2_792_820)),
    ],
)
def test_added_parameters(topology, deltas):
    settings = ((10, 2), (25, 5), (50, 10), (100, 20))
    assert tuple(added_parameters(topology, embed_dim=d, num_heads=h) for d, h in settings) == deltas


@pytest.mark.parametrize(("position", "delta"), [("none", 1_058_675), ("before", 1_059_125), ("after", 1_058_891)])
def test_added_parameters_of_the_positions(position, delta):
    assert added_parameters("paper", position=position) == delta


def test_added_parameters_give_the_printed_total():
    # Table 4 prints 30.55 "M", which is 2^20: nnU-Net v1's 30,978,528, the block, and 2 * 25 parameters that the
    # authors' module holds but never uses.
    assert round((30_978_528 + added_parameters("paper") + 2 * 25) / 2**20, 2) == 30.55


# ---- it is the planned U-Net, but for one layer ----


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("deep_supervision", [False, True])
def test_logits_and_gradients(dims, residual, deep_supervision):
    network = small(dims, residual, deep_supervision=deep_supervision)
    space = small_plan(dims).patch_size
    outputs = network(torch.randn(2, 2, *space))
    if deep_supervision:
        half = (8, 8, 12)[-dims:]
        assert [tuple(o.shape) for o in outputs] == [(2, 3, *space), (2, 3, *half)]
        torch.stack([o.sum() for o in outputs]).sum().backward()
        assert all(p.grad is not None for p in network.parameters())
    else:
        assert outputs.shape == (2, 3, *space)
        outputs.sum().backward()
        without = {name for name, p in network.named_parameters() if p.grad is None}
        assert without == {"decoder.seg_layers.0.weight", "decoder.seg_layers.0.bias"}


def test_deep_supervision_switches_outputs_only():
    on, off = small(deep_supervision=True).eval(), small(deep_supervision=False).eval()
    assert {k: v.shape for k, v in on.state_dict().items()} == {k: v.shape for k, v in off.state_dict().items()}
    off.load_state_dict(on.state_dict())
    x = torch.randn(1, 2, 8, 16, 24)
    assert torch.equal(on(x)[0], off(x))
    on.decoder.deep_supervision = False
    assert torch.equal(on(x), off(x))


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_plain_checkpoint_fits_but_for_one_layer(dims, residual):
    plain = build_planned_unet(small_plan(dims, residual), 2, 3).state_dict()
    network = small(dims, residual)
    ours = network.state_dict()
    assert {key for key in ours if key not in plain} == {key for key in ours if key.startswith("gasa.")}
    assert {key for key in plain if key not in ours} == set()
    assert [key for key in plain if plain[key].shape != ours[key].shape] == ["decoder.transpconvs.0.weight"]

    name = "decoder.transpconvs.0.weight"
    plain[name] = GASAUNet.adapt_weight(name, plain[name], ours[name])
    assert network.load_state_dict(plain, strict=False).unexpected_keys == []


@pytest.mark.parametrize("residual", [False, True])
def test_equals_the_plain_unet_where_the_decoder_ignores_the_new_channels(residual):
    plan = small_plan(residual=residual)
    plain = build_planned_unet(plan, 2, 3, deep_supervision=True).eval()
    network = small(residual=residual, deep_supervision=True).eval()
    state, name = plain.state_dict(), "decoder.transpconvs.0.weight"
    state[name] = GASAUNet.adapt_weight(name, state[name], torch.zeros_like(network.state_dict()[name]))
    network.load_state_dict(state, strict=False)
    x = torch.randn(2, 2, 8, 16, 24)
    with torch.no_grad():
        for ours, theirs in zip(network(x), plain(x), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_decoder_sees_the_attention():
    network = small().eval()
    x = torch.randn(1, 2, 8, 16, 24)
    before = network(x)
    assert network.gasa.voxel_position is not None
    nn.init.ones_(network.gasa.voxel_position)
    assert not torch.allclose(network(x), before)


# ---- sizes and arguments ----


@pytest.mark.parametrize("shape", [(1, 2, 8, 16, 16), (1, 2, 16, 16, 24), (1, 3, 8, 16, 24), (1, 2, 16, 24)])
def test_another_input_is_refused_with_both_sizes(shape):
    with pytest.raises(ValueError, match=r"expected .* \(2, 8, 16, 24\)") as raised:
        small()(torch.zeros(shape))
    assert f"got {shape[1:]}" in str(raised.value)
    assert "nnU-Net's tiles have the patch size" in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": [8, 16, 20, 4]}, r"works on 3 axes, got patch_size \(8, 16, 20, 4\)"),
        ({"patch_size": [8, 18, 24]}, r"patch_size \(8, 18, 24\) .* multiple .* \(2, 4, 4\)"),
        ({"patch_size": [8, 0, 24]}, r"patch_size \(8, 0, 24\) .* multiple .* \(2, 4, 4\)"),
        ({"num_heads": 3}, r"got 3 heads for 25 dims"),
        ({"backbone": "no.such.UNet"}, r"nothing can be imported as 'no.such.UNet'"),
    ],
)
def test_illegal_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


class NoUNet(nn.Module):
    def __init__(self, **_arguments):
        super().__init__()
        self.encoder = nn.Identity()


class WiderUNet(PlainConvUNet):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.decoder.transpconvs[0] = nn.ConvTranspose3d(83, 6, 2, 2)


def importable(monkeypatch, network_class: type) -> str:
    """Return a dotted path to a class of this file, as a user's own network has one."""
    monkeypatch.setattr(torch.nn, network_class.__name__, network_class, raising=False)
    return f"torch.nn.{network_class.__name__}"


def test_a_backbone_that_is_no_unet_is_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"NoUNet has no encoder.output_channels; GASAUNet needs a U-Net"):
        GASAUNet(2, 3, [8, 16, 24], backbone=importable(monkeypatch, NoUNet))


def test_a_backbone_of_one_stage_is_refused():
    arguments = unet_arguments(3, [4], [S111], [K333])
    with pytest.raises(ValueError, match="at least 2 stages"):
        GASAUNet(2, 3, [8, 16, 24], **arguments)


def test_a_backbone_whose_decoder_takes_more_than_its_encoder_gives_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="takes 83 channels, but its encoder ends with 8"):
        small(backbone=importable(monkeypatch, WiderUNet))


def test_scalar_strides_and_classes_instead_of_paths():
    arguments = resolve_classes(small_plan(2).arch_kwargs, CLASSES)
    network = GASAUNet(1, 2, [16, 24], **{**arguments, "strides": [1, 2, 2], "kernel_sizes": 3})
    assert network.gasa.feature_size == (4, 6)
    assert network(torch.randn(1, 1, 16, 24)).shape == (1, 2, 16, 24)


# ---- nnU-Net's contract ----


@pytest.mark.parametrize("residual", [False, True])
def test_initialize(residual):
    network = small(residual=residual)
    linear = network.gasa.qkv.weight.clone()
    for project in network.gasa.projections:
        assert isinstance(project, SliceProjection)
        nn.init.ones_(project.weight)
        nn.init.ones_(project.bias)
    network.apply(GASAUNet.initialize)
    assert torch.equal(network.gasa.qkv.weight, linear)
    for name, parameter in network.named_parameters():
        if name.endswith("voxel_position") or ("gasa.projections" in name and name.endswith("bias")):
            assert not parameter.any(), name
        if "gasa.projections" in name and name.endswith("weight"):
            fan_in = parameter[0].numel()
            assert parameter.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.1), name
    # nnU-Net's He-normal takes a transposed convolution's out-channels as fan-in, so the wider input changes nothing
    up = network.decoder.transpconvs[0]
    assert up.weight.std().item() == pytest.approx((2 / up.weight[0].numel()) ** 0.5, rel=0.1)
    assert not up.bias.any()
    last_norms = [p for name, p in network.encoder.named_parameters() if "conv2.norm.weight" in name]
    assert bool(last_norms) == residual
    assert not any(p.any() for p in last_norms)


def test_feature_map_size_for_the_planner():
    plan = small_plan()
    unet = build_planned_unet(plan, 2, 3)
    assert isinstance(unet, PlainConvUNet)
    plain = unet.compute_conv_feature_map_size(plan.patch_size)
    # bottleneck (4, 4, 6): 14 tokens of 25, five times; 75 channels of 96 voxels
    assert small().compute_conv_feature_map_size(plan.patch_size) == plain + 14 * 25 * 5 + 75 * 96


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dims", [2, 3])
def test_plans_that_name_it_build_it(dims, residual):
    arguments = json.loads(json.dumps(GASAUNet.plan_arguments(small_plan(dims, residual))))
    assert arguments["patch_size"] == list(small_plan(dims).patch_size)
    network = get_network_from_plans(
        "nnunet_attn.architectures.gasa_unet.GASAUNet",
        {**arguments, "position": "before"},
        CLASSES,
        input_channels=2,
        output_channels=3,
        deep_supervision=True,
    )
    assert type(network).__name__ == "GASAUNet"
    assert type(network.encoder).__name__ == ("ResidualEncoder" if residual else "PlainConvEncoder")
    assert network.gasa.token_position is not None
    assert len(network(torch.randn(1, 2, *small_plan(dims).patch_size))) == 2


def test_the_registry_builds_it():
    options = {"embed_dim": 6, "num_heads": 2, "position": "none"}
    network = build_network(network_named("GASAUNet"), small_plan(), 2, 3, options=options)
    assert network(torch.randn(1, 2, 8, 16, 24)).shape == (1, 3, 8, 16, 24)


def test_plans_that_name_it_already_are_refused_with_the_remedy():
    plan = PlannedUNet((8, 16, 24), "nnunet_attn.architectures.gasa_unet.GASAUNet", {})
    with pytest.raises(ValueError, match="train them with nnUNetTrainer or nnUNetTrainerPlain"):
        GASAUNet.plan_arguments(plan)


def test_plans_with_unknown_classes_are_refused():
    plan = PlannedUNet((8, 16, 24), "some.UNet", {}, requires_import=("conv_op", "gate_op"))
    with pytest.raises(ValueError, match=r"some\.UNet takes classes as gate_op"):
        GASAUNet.plan_arguments(plan)


# ---- weights from other networks ----

PROJECTION = "gasa.projections.1.weight"


def test_adapt_the_first_transposed_convolution():
    source, target = torch.randn(8, 6, 2, 2, 2), torch.randn(83, 6, 2, 2, 2)
    before = target.clone()
    adapted = GASAUNet.adapt_weight("decoder.transpconvs.0.weight", source, target)
    assert adapted is not None
    assert torch.equal(adapted[:8], source)
    assert torch.equal(adapted[8:], before[8:])
    assert torch.equal(target, before)


@pytest.mark.parametrize(
    ("old", "new"), [((6, 6), (4, 4)), ((4, 5), (8, 3)), ((3, 12), (1, 1)), ((1, 1), (4, 6)), ((6,), (4,))]
)
def test_adapted_projections_answer_a_constant_as_before(old, new):
    source, target = torch.randn(5, 3, *old), torch.randn(5, 3, *new)
    adapted = GASAUNet.adapt_weight(PROJECTION, source, target)
    assert adapted is not None
    assert adapted.shape == target.shape
    axes = tuple(range(2, source.ndim))
    torch.testing.assert_close(adapted.sum(axes), source.sum(axes), rtol=1e-4, atol=1e-5)


def test_adapted_projections_are_linear_ramps():
    # a kernel that rises along its axis, 0..5 on 6 voxels, read at the centres of 3 voxels twice as large is
    # 0.5, 2.5, 4.5; times 6 / 3, since each new voxel stands for two
    source = torch.arange(6.0).view(1, 1, 6)
    adapted = GASAUNet.adapt_weight(PROJECTION, source, torch.zeros(1, 1, 3))
    torch.testing.assert_close(adapted, torch.tensor([[[1.0, 5.0, 9.0]]]))


def test_adapted_positions_keep_their_values():
    source = torch.arange(4.0).view(1, 1, 4, 1, 1).expand(1, 1, 4, 2, 3)
    adapted = GASAUNet.adapt_weight("gasa.voxel_position", source, torch.zeros(1, 1, 2, 4, 5))
    torch.testing.assert_close(adapted, torch.tensor([0.5, 2.5]).view(1, 1, 2, 1, 1).expand(1, 1, 2, 4, 5))


def test_adapted_weights_fit_a_network_of_another_patch():
    old, new = small(), small(patch_size=[16, 16, 32])
    state, other = old.state_dict(), new.state_dict()
    differing = [key for key in other if state[key].shape != other[key].shape]
    assert differing == ["gasa.voxel_position", *(f"gasa.projections.{axis}.weight" for axis in range(3))]
    new.load_state_dict(state | {key: GASAUNet.adapt_weight(key, state[key], other[key]) for key in differing})


@pytest.mark.parametrize(
    ("key", "source", "target"),
    [
        ("decoder.transpconvs.0.weight", (83, 6, 2, 2), (8, 6, 2, 2)),
        ("decoder.transpconvs.0.weight", (8, 6, 1, 2, 2), (83, 6, 2, 2, 2)),
        ("decoder.transpconvs.1.weight", (8, 6, 2, 2), (83, 6, 2, 2)),
        ("decoder.seg_layers.1.weight", (2, 4, 1, 1), (3, 4, 1, 1)),
        (PROJECTION, (10, 8, 4, 6), (25, 8, 4, 6)),
        (PROJECTION, (25, 8, 6), (25, 8, 4, 6)),
        ("gasa.projections.1.bias", (10,), (25,)),
        ("gasa.token_position", (1, 14, 25), (1, 18, 25)),
        ("gasa.voxel_position", (1, 1, 4, 6), (1, 1, 4, 4, 6)),
    ],
)
def test_other_differences_cannot_be_adapted(key, source, target):
    assert GASAUNet.adapt_weight(key, torch.zeros(source), torch.zeros(target)) is None
