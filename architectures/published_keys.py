"""How published code names the tensors of its networks, and how this package does: pure data, imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Requirement:
    """What an option of a network must be, or the network is another function than the published one.

    Args:
        option: The option, which is also an attribute of the network.
        value: What it must be, JSON-able.
        reason: Why: what the published weights do.
        trainer: A trainer that stands for it.
    """

    option: str
    value: bool | tuple[int, ...]
    reason: str
    trainer: str | None = None


@dataclass(frozen=True)
class PublishedSource:
    """The state dict of one published network.

    Args:
        network: Name of the network in the registry.
        prefixes: How names begin, there and here; every name begins with one of them.
        parts: What else differs within names, there and here.
        present: Names by which such a state dict is known.
        absent: Names that it never has.
        stacked: Last part of a name here, and the published scalars that it holds, in order.
        interleaved: A module and a tensor beside it: where that tensor exists, the even channels of the module's
            tensors are the first half of ours, the odd ones the second.
        counters: Names of tensors that are (n,) and boolean here, and counters (n, 1) there: True from 1 on.
        centred: Last part of the names here of tables whose middle rows alone are used, where there are more than here:
            n of m rows from m // 2 - n // 2 on.
        without_influence: Regular expressions of the names that the published network's output does not depend on.
        block: Regular expression of the names of what a block has; groups are its stage and its number in the stage.
        read_later: Regular expressions of names, and how many blocks of the stage must follow, or the output does not
            depend on them. The groups are the stage, and the block if it is one's; else it is the first block's.
        index: Last part of the names here of constants that are in no state dict of ours; published ones must be equal.
        whole_shifts: Whether the published network shifts windows along all axes or none.
        required: What the network's options must be.
        sized_by: Regular expressions of names here, and the options of the network that sizes follow.
    """

    network: str
    prefixes: Sequence[tuple[str, str]]
    parts: Sequence[tuple[str, str]]
    present: Sequence[str]
    absent: Sequence[str] = ()
    stacked: Mapping[str, Sequence[str]] = field(default_factory=dict)
    interleaved: tuple[str, str] | None = None
    counters: Sequence[str] = ()
    centred: str | None = None
    without_influence: Sequence[str] = ()
    block: str | None = None
    read_later: Sequence[tuple[str, int]] = ()
    index: str | None = None
    whole_shifts: bool = False
    required: Sequence[Requirement] = ()
    sized_by: Sequence[tuple[str, str]] = ()


_AXIAL_PARTS = (
    (".conv_down.", ".down."),
    (".conv_up.", ".up."),
    (".downsample.", ".shortcut."),
    (".hight_block.", ".layers.0."),
    (".width_block.", ".layers.1."),
    (".qkv_transform.", ".qkv."),
)
_GATES = {"gates": ("f_qr", "f_kr", "f_sv", "f_sve")}
_OUTPUT = ("adjust.", "output.seg_layers.0.")
_FUSION = ("decoderf.", "fusion.")


def _branch(branch: str, suffix: str, n_stages: int, decoder: Sequence[int]) -> tuple[tuple[str, str], ...]:
    """Return how the names of a branch begin.

    Args:
        branch: Its name here.
        suffix: What the published names of its modules end with.
        n_stages: Number of stages.
        decoder: Numbers of the published decoder convolutions, in order of use.
    """
    stem = [f"{kind}{number}" for number in (1, 2, 3) for kind in ("conv", "bn")]
    return (
        *((f"{name}{suffix}.", f"{branch}.stem.{name}.") for name in stem),
        *((f"layer{stage + 1}{suffix}.", f"{branch}.stages.{stage}.") for stage in range(n_stages)),
        *((f"decoder{number}{suffix}.", f"{branch}.decoder.{index}.") for index, number in enumerate(decoder)),
    )


_FULL = (*_branch("branch", "", 4, (1, 2, 3, 4, 5)), _OUTPUT)
_TWO_BRANCHES = (
    *_branch("global_branch", "", 2, (4, 5)),
    *_branch("local_branch", "_p", 4, (1, 2, 3, 4, 5)),
    _FUSION,
    _OUTPUT,
)
# An index matrix in each layer; the second output layer is built and never called
_INDEX, _SECOND_OUTPUT = r"\.flatten_index$", r"^adjust_p\."
_DEAD_CONVOLUTION = r"^layer\d_p\.\d+\.conv1\."
_GATE, _TABLE = "layer1.0.hight_block.f_qr", "layer1.0.hight_block.relative"
_LOCAL, _LOCAL_TABLE = "layer1_p.0.conv_down.weight", "layer1_p.0.hight_block.relative"
_DEEP = "layer4.0.conv_down.weight"


def _axial(
    network: str,
    prefixes: Sequence[tuple[str, str]],
    present: Sequence[str],
    absent: Sequence[str],
    gated: bool = False,
    without_influence: Sequence[str] = (),
) -> PublishedSource:
    return PublishedSource(
        network=network,
        prefixes=prefixes,
        parts=_AXIAL_PARTS,
        stacked=_GATES if gated else {},
        interleaved=("bn_output", "relative"),
        without_influence=(_INDEX, *without_influence),
        present=present,
        absent=absent,
    )


_STAGES = 4
_STEM = tuple(
    (f"model_down.patch_embed.{there}.", f"stem.{here}.")
    for there, here in (
        ("proj1.conv1", "convs.0.conv"),
        ("proj1.norm1", "convs.0.norm"),
        ("proj1.conv2", "convs.1.conv"),
        ("proj1.norm2", "convs.1.norm"),
        ("proj2.conv1", "convs.2.conv"),
        ("proj2.norm1", "convs.2.norm"),
        ("proj2.conv2", "convs.3"),
        ("norm", "norm"),
    )
)
_WINDOW_PARTS = ((".relative_position_bias_table", ".relative_bias"), (".relative_position_index", ".index"))
_TOKEN_PARTS = (
    (".global_token", ".window_token"),
    (".volume_token", ".volume_tokens"),
    (".pe", ".position"),
    (".gt_attn.", ".global_attn."),
    (".vt_attn.", ".volume_attn."),
)
_WINDOW_INDEX = r"^(?:model_down|encoder|decoder)\.layers\.\d\.blocks\.\d+\.attn\.relative_position_index$"
# Computed behind the last stage and thrown away
_LAST_DOWN = rf"^model_down\.layers\.{_STAGES - 1}\.downsample\.(?:norm|reduction)\.(?:weight|bias)$"
_KEY_VALUE, _TOKEN = "decoder.layers.0.blocks.0.attn.kv.weight", "model_down.layers.0.global_token"
_QUIRK = Requirement("quirk", True, "index their relative biases in the published way")


def _window_prefixes(decoder: str) -> tuple[tuple[str, str], ...]:
    """Return how the names of a network of window attention begin.

    Args:
        decoder: Published name of its decoder, whose stages are numbered finest first; here they are deepest first.
    """
    encoder, decoded = range(_STAGES), range(_STAGES - 1)
    return (
        *_STEM,
        *((f"model_down.layers.{stage}.downsample.norm.", f"down.{stage}.norm.") for stage in decoded),
        *((f"model_down.layers.{stage}.downsample.reduction.", f"down.{stage}.conv.") for stage in decoded),
        *((f"model_down.layers.{stage}.", f"encoder.{stage}.") for stage in encoder),
        *((f"model_down.norm{stage}.", f"norms.{stage}.") for stage in encoder),
        *((f"{decoder}.layers.{stage}.Upsample.norm.", f"up.{_STAGES - 2 - stage}.norm.") for stage in decoded),
        *((f"{decoder}.layers.{stage}.Upsample.up.", f"up.{_STAGES - 2 - stage}.conv.") for stage in decoded),
        *((f"{decoder}.layers.{stage}.", f"decoder.stages.{_STAGES - 2 - stage}.") for stage in decoded),
        *((f"final.{stage}.up.", f"decoder.seg_layers.{stage}.") for stage in decoded),
    )


def _windows(
    network: str,
    decoder: str,
    present: Sequence[str],
    absent: Sequence[str] = (),
    without_influence: Sequence[str] = (),
) -> PublishedSource:
    return PublishedSource(
        network=network,
        prefixes=_window_prefixes(decoder),
        parts=_WINDOW_PARTS,
        present=("model_down.patch_embed.proj1.conv1.weight", *present),
        absent=absent,
        without_influence=(_WINDOW_INDEX, *without_influence),
        index=".index",
        whole_shifts=True,
        required=(_QUIRK,),
        sized_by=_SIZED_BY,
    )


_SIZED_BY = (
    (r"\.relative_bias$", "windows, decoder_windows and num_heads"),
    (r"^(down|up)\.\d\.conv\.weight$", "strides"),
    (r"^seen$|\.volume_tokens$", "volume_extent"),
)
_PLAIN_WINDOWS = _windows(
    "NNFormer2021",
    "encoder",
    present=("encoder.layers.0.blocks.0.attn.qkv.weight",),
    absent=(_TOKEN,),
    without_influence=(_LAST_DOWN,),
)
_TOKEN_STAGE = r"^((?:model_down|encoder)\.layers\.\d)\."
_TOKEN_BLOCK = _TOKEN_STAGE + r"blocks\.(\d+)\."
_TOKENS_ANEW = Requirement(
    "carry", False, "start the tokens of sub-volumes anew in every stage", "nnUNetTrainerFINEPublished"
)
_VOLUME_TOKENS = Requirement("volume_tokens", True, "have tokens of sub-volumes", "nnUNetTrainerFINEPublished")
_GRID_AXES = Requirement("grid_axes", (1, 2), "divide the volume along the axes 1 and 2 alone")


SOURCES: dict[str, PublishedSource] = {
    "axialunet": _axial("AxialUNet", _FULL, present=(_DEEP, _TABLE), absent=(_GATE, _LOCAL)),
    "gatedaxialunet": _axial("GatedAxialUNet", _FULL, present=(_DEEP, _GATE), absent=(_LOCAL,), gated=True),
    "logo": _axial(
        "LoGo", _TWO_BRANCHES, present=(_TABLE, _LOCAL_TABLE), absent=(_GATE,), without_influence=(_SECOND_OUTPUT,)
    ),
    "medt": _axial(
        "MedT",
        _TWO_BRANCHES,
        present=(_GATE, _LOCAL),
        absent=(_LOCAL_TABLE,),
        gated=True,
        without_influence=(_SECOND_OUTPUT, _DEAD_CONVOLUTION),
    ),
    "nnformer": _windows("NNFormer", "decoder", present=(_KEY_VALUE,)),
    "nnformer_2021": _PLAIN_WINDOWS,
    "fine": replace(
        _PLAIN_WINDOWS,
        network="FINE",
        prefixes=(*_window_prefixes("encoder"), ("vt_check", "seen")),
        parts=(*_WINDOW_PARTS, *_TOKEN_PARTS),
        present=(_TOKEN, "model_down.layers.0.blocks.0.gt_attn.qkv.weight"),
        absent=(),
        counters=("seen",),
        centred=".position",
        block=_TOKEN_BLOCK,
        read_later=(
            (_TOKEN_BLOCK + r"gt_attn\.(?:qkv|proj)\.(?:weight|bias)$", 1),
            (_TOKEN_BLOCK + r"vt_attn\.(?:qkv|proj)\.(?:weight|bias)$", 2),
            (_TOKEN_STAGE + r"(?:pe|volume_token)$", 1),
        ),
        required=(_QUIRK, _TOKENS_ANEW, _VOLUME_TOKENS, _GRID_AXES),
    ),
}
