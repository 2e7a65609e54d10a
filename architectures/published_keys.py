"""How published code names the tensors of its networks, and how this package does: pure data, imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedSource:
    """The state dict of one published network.

    Args:
        network: Name of the network in the registry.
        prefixes: How names begin, there and here; every name begins with one of them.
        parts: What else differs within names, there and here.
        stacked: Last part of a name here, and the published scalars that it holds, in order.
        interleaved: A module and a tensor beside it: where that tensor exists, the even channels of the module's
            tensors are the first half of ours, the odd ones the second.
        without_influence: Regular expressions of the names that the published network's output does not depend on.
        present: Names by which such a state dict is known.
        absent: Names that it never has.
    """

    network: str
    prefixes: Sequence[tuple[str, str]]
    parts: Sequence[tuple[str, str]]
    stacked: Mapping[str, Sequence[str]]
    interleaved: tuple[str, str]
    without_influence: Sequence[str]
    present: Sequence[str]
    absent: Sequence[str]


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
}
