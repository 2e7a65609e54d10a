"""What a training step of the patch transformer keeps in memory, against what autograd really keeps."""

from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_attn.training import patch_memory
from nnunet_attn.training.patch_memory import blocks_that_fit, chosen_sizes, free_bytes, saved_bytes_per_block
from tests.made.patch import small_network


def kept_bytes(network: Any, cells: int) -> int:
    """Return the bytes of all tensors but parameters that the backward pass of m^d blocks needs."""
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    storages: dict[int, int] = {}
    held: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)  # so that no address is used twice
        return tensor

    crop = torch.randn(
        1, 1, *((cells + n - 1) * size for n, size in zip(network.neighbourhood, network.patch_embed_size, strict=True))
    )
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(crop, valid=True)
    return sum(storages.values())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mlp_dim": 256},
        {"num_heads": 4, "head_dim": 32},
        {"norm": "none"},
        {"norm": "post"},
        {"output": "flatten"},
        {"depth": 5},
        {"neighbourhood": (3, 1, 3)},
    ],
    ids=str,
)
def test_the_estimate_is_near_what_autograd_keeps(options: dict[str, Any]) -> None:
    network = small_network(**{"embed_dim": 64, "depth": 3, "num_heads": 4, "head_dim": 16, "mlp_dim": 64, **options})
    # the difference of two sizes leaves out what does not grow with the blocks
    per_block = (kept_bytes(network, 3) - kept_bytes(network, 2)) / (27 - 8)
    assert saved_bytes_per_block(network) == pytest.approx(per_block, rel=0.05)


def test_checkpointing_keeps_the_inputs_of_stages() -> None:
    kept, plain = small_network(depth=6, checkpointing=True), small_network(depth=6)
    inputs = 6 * 27 * 16 * 4
    assert inputs < saved_bytes_per_block(kept) < 0.5 * saved_bytes_per_block(plain)


def test_full_size() -> None:
    with torch.device("meta"):
        network = small_network(patch_embed_size=8, embed_dim=1024, depth=7, num_heads=4, head_dim=256, mlp_dim=1024)
    # six stages of 27 * (4 + 4 + 1) * 1024 numbers, and one token of the last: its input and norm, 8 sums of tokens
    six, last = 6 * 27 * 9 * 1024, 27 * 2 * 1024 + 8 * 1024 + 8 * 27 + 2 * 1024 + 4 * 1024
    assert saved_bytes_per_block(network) == 4 * (six + last)
    assert saved_bytes_per_block(network, mixed=True) == pytest.approx(0.61 * 4 * (six + last), rel=0.02)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert 45e6 < parameters < 47e6
    free = 8 * 2**30
    expected = (0.7 * free - 16 * parameters) / (4 * (six + last))
    assert blocks_that_fit(network, free, False) == int(expected)
    assert blocks_that_fit(network, 10**6, False) == 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # cells, batch, blocks, axes, GPU, processes
        ((None, None, 256, 3, False, 1), (4, 4)),
        ((None, None, 10**6, 3, False, 1), (4, 4)),
        ((None, None, 10**6, 3, True, 1), (4, 16)),
        ((None, None, 200, 3, True, 1), (4, 3)),  # 3 * 64 blocks
        ((None, None, 127, 3, True, 1), (3, 4)),  # 2 * 64 do not fit, 4 * 27 do
        ((None, None, 0, 3, True, 1), (1, 1)),
        ((None, 10, 100, 3, False, 1), (2, 10)),  # 10 * 8 blocks
        ((2, None, 100, 3, True, 1), (2, 12)),
        ((5, 7, 0, 3, True, 1), (5, 7)),
        ((None, None, 40, 2, False, 1), (4, 2)),  # 2 * 16 blocks
        ((None, None, 64, 3, True, 4), (4, 4)),  # one crop a process
        ((None, None, 130, 3, True, 4), (4, 8)),
        ((None, None, 0, 3, False, 8), (1, 8)),  # one each, however small the memory is
        ((None, 6, 54, 3, True, 4), (3, 6)),  # two crops in the fullest process
    ],
)
def test_choices(given: Any, expected: tuple[int, int]) -> None:
    assert chosen_sizes(*given) == expected


def test_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "meminfo"
    file.write_text("MemTotal: 9000 kB\nMemAvailable:   2048 kB\n")
    monkeypatch.setattr(patch_memory, "MEMORY_FILE", file)
    assert free_bytes(torch.device("cpu")) == 2 * 2**20
    monkeypatch.setattr(patch_memory, "MEMORY_FILE", tmp_path / "none")
    assert free_bytes(torch.device("cpu")) > 2**20
