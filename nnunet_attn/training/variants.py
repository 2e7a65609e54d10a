"""Composable trainer names: `nnUNetTrainerGASA_100epochs_bf16_seed3` is a class wherever nnU-Net asks for it.

A leaf module in `trainers/` sets `__getattr__ = variants_of(globals())` (PEP 562). nnU-Net's own look-up then finds
every combination at training, at resuming, and at inference from the name in the checkpoint alone.
"""

from collections.abc import Callable, Mapping
from typing import Any

from nnunet_attn.trainer_names import PRETRAINING, SUFFIXES, ParsedName, Suffix, parse_trainer_name

__all__ = ["PRETRAINING", "SUFFIXES", "ParsedName", "Suffix", "parse_trainer_name", "variants_of"]


def _mixins(attributes: Mapping[str, Any]) -> tuple[type, ...]:
    if PRETRAINING not in attributes:
        return ()
    # trainers that do not pre-train need nothing of it
    from nnunet_attn.training.pretrain import PretrainMixin

    return (PretrainMixin,)


def variants_of(namespace: Mapping[str, Any]) -> Callable[[str], type]:
    """Return a module-level `__getattr__` that makes the variants of the trainers defined in `namespace`.

    Args:
        namespace: The `globals()` of a leaf module.
    """
    made: dict[str, type] = {}

    def __getattr__(name: str) -> type:
        if name in made:
            return made[name]
        module = namespace["__name__"]
        bases = {
            key: value
            for key, value in namespace.items()
            if isinstance(value, type) and value.__module__ == module and not key.startswith("_")
        }
        parsed = parse_trainer_name(name, bases)
        if parsed.base is None or not parsed.is_valid:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        base = bases[parsed.base]
        members = {"__module__": module, "__doc__": base.__doc__, **parsed.attributes}
        made[name] = type(name, (*_mixins(parsed.attributes), base), members)
        return made[name]

    return __getattr__
