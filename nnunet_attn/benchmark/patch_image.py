"""Times the prediction of a whole image by the grid predictor against nnU-Net's own, in overlapping tiles."""

import io
import math
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor

from nnunet_attn.architectures.patch_transformer import PatchTransformer
from nnunet_attn.benchmark.measure import Work, held_bytes, interleaved
from nnunet_attn.benchmark.patch_blocks import NUM_CLASSES, PREDICT, described, over
from nnunet_attn.datasets.phantom import phantom_case
from nnunet_attn.inference.grid_predictor import GridPredictor

TILES, GRID = "nnUNetPredictor, tiles", "GridPredictor"
STEP = 0.5
"""nnU-Net's default distance of tiles, over their size."""
_CONFIGURATION = "3d_fullres"


def counted_blocks(image: Sequence[int], tile: Sequence[int], size: Sequence[int]) -> dict[str, Any]:
    """Return how many tiles nnU-Net predicts, and how many blocks that is against a grid over the image.

    Args:
        image: Voxels of the image; nnU-Net pads it to a tile.
        tile: Voxels of a tile, nnU-Net's patch size.
        size: Voxels of a patch of the network.
    """
    padded = [max(full, own) for full, own in zip(image, tile, strict=True)]
    steps = compute_steps_for_sliding_window(tuple(padded), tuple(tile), STEP)
    tiles = math.prod(len(along) for along in steps)
    in_tile, in_grid = (math.prod(-(-n // own) for n, own in zip(whole, size, strict=True)) for whole in (tile, image))
    return {
        "tile": list(tile),
        "tiles": tiles,
        "blocks": tiles * in_tile,
        "grid_blocks": in_grid,
        "ratio": in_grid / (tiles * in_tile),
    }


def made_image(size: Sequence[int], seed: int) -> Tensor:
    """Return a phantom of one channel, mean 0 and standard deviation 1, (1 d h w)."""
    image, _, _ = phantom_case(3, size, np.random.default_rng(seed))
    whole = torch.from_numpy(image.astype(np.float32))[None]
    return (whole - whole.mean()) / whole.std()


def made_predictor(kind: type[nnUNetPredictor], network: PatchTransformer, tile: Sequence[int]) -> nnUNetPredictor:
    """Return a predictor of a network without mirroring, tiles apart as nnU-Net has them by default."""
    device = network.embed.weight.device
    with redirect_stdout(io.StringIO()):  # on the CPU it says that it is no GPU
        predictor = kind(
            tile_step_size=STEP,
            use_gaussian=True,
            use_mirroring=False,
            perform_everything_on_device=device.type == "cuda",
            device=device,
            allow_tqdm=False,
        )
    # of plans, prediction reads the size of a tile alone
    entry = {"patch_size": list(tile), "architecture": {}}
    plans = PlansManager({"label_manager": "LabelManager", "configurations": {_CONFIGURATION: entry}})
    labels = {"labels": {"background": 0, "foreground": 1}}
    predictor.manual_initialization(
        network, plans, plans.get_configuration(_CONFIGURATION), [network.state_dict()], labels, "none", None
    )
    return predictor


def measure_image(
    network: PatchTransformer,
    size: Sequence[int],
    tile: Sequence[int],
    counted: Sequence[int],
    rounds: int,
    seed: int,
    clock: Any,
    on_round: Any,
) -> dict[str, Any]:
    """Return times and memory of both predictors, how far they agree, and the blocks they compute, JSON-able.

    Args:
        network: In eval mode, on the device to measure on.
        size: Voxels of the image.
        tile: Voxels of a tile.
        counted: Edges of further tiles, whose blocks are counted only.
        rounds: Measured rounds.
        seed: Of the image.
        clock: Runs a piece of work and returns its seconds.
        on_round: Called after each round.
    """
    image = made_image(size, seed)
    predicted: dict[str, Any] = {}

    def work(name: str, predictor: nnUNetPredictor) -> Work:
        def predict() -> None:
            predicted[name] = predictor.predict_sliding_window_return_logits(image)

        return predict

    predictors = {TILES: made_predictor(nnUNetPredictor, network, tile)}
    predictors[GRID] = made_predictor(GridPredictor, network, tile)
    works = {name: {PREDICT: work(name, predictor)} for name, predictor in predictors.items()}
    times = interleaved(works, clock, rounds, on_round)
    agreement = agreement_of(predicted[TILES], predicted[GRID])
    predicted.clear()
    held = held_bytes(network, image)
    networks = {
        name: described(times[name][PREDICT], works[name][PREDICT], network.embed.weight.device, held) for name in works
    }
    edges = [tile, *([edge] * len(size) for edge in counted)]
    return {
        "image": list(size),
        "tile": list(tile),
        "step": STEP,
        "num_classes": NUM_CLASSES,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "networks": networks,
        "ratios": {TILES: over(networks[GRID], networks[TILES])},
        "agreement": agreement,
        "blocks": [counted_blocks(size, own, network.patch_embed_size) for own in edges],
    }


def agreement_of(one: Tensor, other: Tensor) -> dict[str, float]:
    """Return the share of voxels with the same label, and of each label among the first's, of logits (c *space)."""
    labels, others = one.argmax(0), other.argmax(0)
    shares = [float((labels == label).float().mean()) for label in range(len(one))]
    return {
        "share_of_equal_voxels": float((labels == others).float().mean()),
        "share_of_the_most_frequent_label": max(shares),
    }
