"""Settings that the shapes of weights do not show, as numbers in the checkpoint, and the refusal of others."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

ARCH_CODE = "arch_code"
_WORDS = {
    "norm": ("pre", "post", "none"),
    "scale": ("inside", "outside"),
    "position": ("learned", "fixed", "none"),
    "output": ("centre", "flatten"),
}
_NUMBERS = ("depth", "num_heads", "head_dim")
_PER_AXIS = ("patch_embed_size", "neighbourhood")
_AXES = 3


class CodedWeights(nn.Module):
    """A network whose checkpoints say what the shapes of their weights do not; not a network itself.

    The settings are a buffer of its state dict, of the same shape for every network. Weights of other settings are
    refused before any of them is taken over, by PyTorch's loader and by what calls it. Weights without the buffer
    lack a key: a strict load refuses them, nnU-Net's `-pretrained_weights` too.
    """

    def _set_code(self) -> None:
        """Note the settings, which are attributes by now."""
        names = (*_NUMBERS, *_WORDS, *_PER_AXIS)
        self._code = arch_code({name: getattr(self, name) for name in names})
        self.register_buffer(ARCH_CODE, torch.tensor(self._code))

    def check_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Refuse weights of a network with settings that shapes do not show.

        Raises:
            ValueError: If they differ, or the weights say nothing about them.
        """
        if ARCH_CODE not in weights:
            raise ValueError(
                f"the weights have no {ARCH_CODE!r}, by which a PatchTransformer knows its own; take weights that this "
                "package wrote"
            )
        check_arch_code(self._code, weights[ARCH_CODE])

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any, **keywords: Any) -> None:
        if prefix + ARCH_CODE in state_dict:
            check_arch_code(self._code, state_dict[prefix + ARCH_CODE])
        super()._load_from_state_dict(state_dict, prefix, *arguments, **keywords)


def arch_code(settings: Mapping[str, Any]) -> list[int]:
    """Return settings as a list of the same length for every network.

    Args:
        settings: depth, num_heads, head_dim, norm, scale, position, output, and per axis patch_embed_size and
            neighbourhood; 2D has a 0 behind these.
    """
    code = [settings[name] for name in _NUMBERS]
    code += [words.index(settings[name]) for name, words in _WORDS.items()]
    for name in _PER_AXIS:
        code += [*settings[name], *[0] * (_AXES - len(settings[name]))]
    return code


def settings_of(code: Sequence[int]) -> dict[str, Any]:
    """Reverse of `arch_code`; a number that stands for no word stays a number."""
    settings: dict[str, Any] = dict(zip(_NUMBERS, code, strict=False))
    place = len(_NUMBERS)
    for name, words in _WORDS.items():
        settings[name] = words[code[place]] if 0 <= code[place] < len(words) else code[place]
        place += 1
    for name in _PER_AXIS:
        settings[name] = [number for number in code[place : place + _AXES] if number]
        place += _AXES
    return settings


def check_arch_code(own: Sequence[int], given: Tensor) -> None:
    """Refuse weights of other settings.

    Args:
        own: The network's code.
        given: The code that came with the weights; on the meta device it has no values and is taken as it is.
    Raises:
        ValueError: If they differ; the message names each setting that does, with both values.
    """
    if given.is_meta:
        return
    numbers = [int(number) for number in given.flatten().tolist()]
    if numbers == list(own):
        return
    if len(numbers) != len(own):
        raise ValueError(
            f"the weights' {ARCH_CODE} has {len(numbers)} numbers, this network's {len(own)}; they are of another "
            "version of this package, whose settings cannot be compared"
        )
    here, there = settings_of(own), settings_of(numbers)
    differing = [
        f"{name} is {there[name]!r} there and {here[name]!r} here" for name in here if here[name] != there[name]
    ]
    raise ValueError(
        f"the weights are of a PatchTransformer with other settings: {', '.join(differing)}; "
        "set the network's options in the plans to those of the weights, or take other weights"
    )
