"""Random streams that follow from one seed: of the training process, and of each worker that loads data."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter

# independent streams of one seed
NETWORK, PROCESS, TRAINING_WORKERS, VALIDATION_WORKERS = range(4)


def derived_seeds(seed: int, stream: int, rank: int, epoch: int, count: int = 1) -> list[int]:
    """Return `count` numbers below 2**32 that are independent of those of any other stream, rank or epoch."""
    return [int(number) for number in np.random.SeedSequence([seed, stream, rank, epoch]).generate_state(count)]


def seed_process(number: int) -> None:
    """Seed Python's, NumPy's and PyTorch's generators of this process."""
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


@contextmanager
def without_workers() -> Iterator[None]:
    """Let nnU-Net build its data loaders without worker processes."""
    variable = "nnUNet_n_proc_DA"
    before = os.environ.get(variable)
    os.environ[variable] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


def start_workers(data_loader: Any, seeds: list[int], num_cached: int, pin_memory: bool) -> Any:
    """Start one worker process a seed for a data loader, as nnU-Net does, and wait for the first batch."""
    workers = NonDetMultiThreadedAugmenter(
        data_loader,
        None,
        num_processes=len(seeds),
        num_cached=num_cached,
        seeds=seeds,
        pin_memory=pin_memory,
        wait_time=0.002,
    )
    next(workers)
    return workers
