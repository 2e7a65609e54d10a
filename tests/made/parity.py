"""Inputs, weights and outputs of published networks, stored as numbers, that ours must equal."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

VARIABLE = "NNUNET_ATTN_PARITY"
_HALF_STEP = 6e-8  # what rounding to float32 moves a number, relative to it
_EVERY_23 = "_f64_every23"


@dataclass(frozen=True)
class ParityCase:
    """One run of a published network.

    Args:
        name: Name of the case, which is that of its two files.
        meta: What is told about it: "configuration", "key_semantics", "quirks" and more.
        state_dict: Weights and buffers by their published names, in float32.
        arrays: All others by name: inputs, outputs, gradients.
    """

    name: str
    meta: Mapping[str, Any]
    state_dict: dict[str, Tensor]
    arrays: dict[str, Tensor]

    @property
    def live_state_dict(self) -> dict[str, Tensor]:
        """The state dict without what the outputs do not depend on and without constant index tables."""
        dead = set(self.meta.get("parameters_without_influence", ()))
        return {
            key: value
            for key, value in self.state_dict.items()
            if key not in dead and (value.is_floating_point() or key.endswith("num_batches_tracked"))
        }

    def tolerance(self, array: str, dtype: torch.dtype) -> float:
        """Return the largest allowed difference from an array of a computation in float32 or float64.

        Large arrays are stored rounded to float32, which is allowed for; `<array>_f64_every23` are not rounded.
        """
        entry = self.meta["expected_tolerance"]["max_abs"][array.removesuffix(_EVERY_23)]
        stored = self.arrays[array]
        rounding = _HALF_STEP * float(stored.abs().max()) if stored.dtype == torch.float32 else 0.0
        return entry[str(dtype).removeprefix("torch.")] + rounding

    def check(self, array: str, computed: Tensor) -> None:
        """Assert that what was computed is the array, to the tolerance that belongs to the dtype of `computed`."""
        stored = self.arrays[array].double()
        own = computed.detach().cpu()
        assert own.shape == stored.shape, f"{self.name}: {array} is {tuple(own.shape)}, not {tuple(stored.shape)}"
        difference, allowed = float((own.double() - stored).abs().max()), self.tolerance(array, own.dtype)
        assert difference <= allowed, f"{self.name}: {array} differs by {difference:.3g}, more than {allowed:.3g}"
        if array + _EVERY_23 in self.arrays:
            self.check(array + _EVERY_23, own.reshape(-1)[::23])


def parity_case(name: str) -> ParityCase:
    """Return a case, for example "medt_net_medt"; skips the test where there are no parity data."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        pytest.skip(f"needs the parity data: set {VARIABLE} to their folder")
    path = Path(folder) / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"needs the parity data: {VARIABLE} is {folder!r}, which has no {path.name}")
    with np.load(path) as stored:
        everything = {key: torch.from_numpy(stored[key]) for key in stored.files}
    weights = {key: value for key, value in everything.items() if key.startswith(("param/", "buffer/"))}
    return ParityCase(
        name,
        json.loads(path.with_suffix(".json").read_text()),
        {key.split("/", 1)[1]: value for key, value in weights.items()},
        {key: value for key, value in everything.items() if key not in weights},
    )
