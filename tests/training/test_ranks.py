"""A non-finite loss on one rank stops all of them: two ranks on the CPU, with the trainer's own step."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import importlib.util
import os
import sys
from pathlib import Path
import torch
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel
from nnunet_attn.paths import trainers_dir
from nnunet_attn.training.nonfinite import NonFiniteLossError
from tests.made.data import write_preprocessed
from tests.made.plans import KINDS


def rank_main(rank, folder):
    torch.set_num_threads(1)
    kind = KINDS["3d"]
    os.environ.update(write_preprocessed(Path(folder) / str(rank), kind))
    spec = importlib.util.spec_from_file_location("leaf", trainers_dir() / "nnUNetTrainerGASA.py")
    leaf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(leaf)
    trainer = leaf.nnUNetTrainerGASA_2epochs_2its(kind.plans, kind.configuration, 0, kind.dataset_json,
                                                  torch.device("cpu"))
    trainer.initialize()
    # nnU-Net ties DDP to CUDA, so the wrapping is done here; the step is the trainer's own
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    trainer.network = DistributedDataParallel(trainer.network)
    trainer.is_ddp, trainer.local_rank = True, rank
    trainer.loss = trainer._build_loss()
    torch.manual_seed(rank)
    batch = {
        "data": torch.randn(2, 1, 16, 16, 16),
        "target": [torch.randint(0, 3, (2, 1, size, size, size)).short() for size in (16, 8)],
        "keys": [f"rank_{rank}"],
    }
    trainer.train_step(batch)
    before = {key: value.clone() for key, value in trainer.network.state_dict().items()}
    if rank == 1:
        batch["data"][:] = torch.nan
    try:
        trainer.train_step(batch)
    except NonFiniteLossError as error:
        Path(folder, f"error_{rank}").write_text(str(error))
    after = trainer.network.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    distributed.destroy_process_group()


if __name__ == "__main__":
    multiprocessing.spawn(rank_main, (sys.argv[1],), nprocs=2)
"""


@pytest.mark.slow
def test_all_ranks_stop(tmp_path: Path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(CODE)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, env=environment, timeout=600
    )
    assert done.returncode == 0, done.stderr
    errors = [(tmp_path / f"error_{rank}").read_text() for rank in range(2)]
    assert errors[0] == errors[1], "the log, which rank 0 writes, names the rank at fault"
    assert "rank 1: the loss is not finite in epoch 0, iteration 1 (cases: rank_1)" in errors[0]
    assert "the image data itself is not finite" in errors[0]
    assert "rank_0" not in errors[0]
