"""Before networks are timed against the transcription of a published one: same weights, same outputs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_attn.architectures.published import check_network, load_published_weights
from nnunet_attn.benchmark.variants import Variant
from nnunet_attn.errors import InputError

# Of the largest output. Float32 gives less than 1e-6; two channels of one norm exchanged, 3e-4.
TOLERANCE = 2e-5


def equalise(variants: Sequence[Variant], image: Tensor, seed: int, tolerance: float = TOLERANCE) -> dict[str, Any]:
    """Give all forms of a published network the same weights and compare their outputs in eval mode and float32.

    A module with an attribute `published_source` has the published names in its state dict; the attribute is a key of
    `published_keys.SOURCES`. The first such variant gives, the network of this package that its source belongs to
    takes, and so does every other module of the same source. Networks that are none of these stay as they are.

    Args:
        variants: What is going to be measured.
        image: The input that it is going to be measured on.
        seed: Of what moves the weights; see `moved`.
        tolerance: Largest difference allowed, relative to the largest output.
    Returns:
        JSON-able, empty where nothing is compared.
    Raises:
        InputError: If weights do not fit, or the outputs differ by more than the tolerance.
    """
    giver = next((variant for variant in variants if _source(variant) is not None), None)
    takers = [variant for variant in variants if giver is not None and variant is not giver and _takes(variant, giver)]
    if giver is None or not takers:
        return {}
    state = moved(giver.inference.state_dict(), seed)
    for module in (giver.inference, giver.training):
        module.load_state_dict(state)
    for variant in takers:
        for module in (variant.inference, variant.training):
            _fill(variant.name, module, state, giver)
    with torch.no_grad(), exact_convolutions():
        wanted = giver.inference(image).float()
        found = {
            variant.name: float((variant.inference(image).float() - wanted).abs().max().double()) for variant in takers
        }
    largest = float(wanted.abs().max())
    for name, difference in found.items():
        if not difference <= tolerance * largest:  # not a number is refused too
            raise InputError(
                f"{name} differs from {giver.name} with the same weights: by {difference:.3g} where the largest output "
                f"is {largest:.3g}; at most {tolerance:g} of it is allowed, so there is nothing to compare the speed of"
            )
    return {"weights_of": giver.name, "largest_output": largest, "tolerance": tolerance, "max_abs_difference": found}


def moved(state: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Return a state dict with every floating-point number moved a little; variances stay positive.

    Freshly drawn norms and gates are all alike, and a mistake in their order would not be seen.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: Tensor) -> Tensor:
        return torch.rand(like.shape, generator=generator).to(like)

    return {
        key: value * (0.5 + uniform(value)) + (0 if "var" in key else 0.1) * (uniform(value) - 0.5)
        if value.is_floating_point()
        else value
        for key, value in state.items()
    }


def _source(variant: Variant) -> str | None:
    return getattr(variant.inference, "published_source", None)


def _takes(variant: Variant, giver: Variant) -> bool:
    source = _source(giver)
    if source is None or _source(variant) is not None:
        return source == _source(variant)
    try:
        check_network(variant.inference, source)
    except ValueError:
        return False
    return True


def _fill(name: str, module: nn.Module, state: Mapping[str, Tensor], giver: Variant) -> None:
    source = _source(giver)
    try:
        if getattr(module, "published_source", None) == source or source is None:
            module.load_state_dict(state)
        else:
            load_published_weights(module, state, source)
    except (RuntimeError, ValueError) as error:
        told = str(error).strip().replace("\n", " ")
        raise InputError(
            f"{name} cannot take the weights of {giver.name}: {told}; leave the options that change its sizes, or "
            "measure against PlainUNet"
        ) from error


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Do without TF32, which rounds the factors of a product to 10 bits on CUDA."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
