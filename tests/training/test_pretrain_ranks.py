"""Pre-training on two ranks on the CPU: unused output layers do no harm, and all ranks count in what is logged."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import importlib.util
import json
import os
import sys
from pathlib import Path
import torch
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel
from nnunet_attn.paths import trainers_dir
from nnunet_attn.training.pretrain import freeze_unused
from tests.made.data import write_preprocessed
from tests.made.plans import KINDS


def rank_main(rank, folder):
    torch.set_num_threads(1)
    kind = KINDS["2d"]
    os.environ.update(write_preprocessed(Path(folder) / str(rank), kind))
    spec = importlib.util.spec_from_file_location("leaf", trainers_dir() / "nnUNetTrainerPlain.py")
    leaf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(leaf)
    trainer = leaf.nnUNetTrainerPlain_1epochs_1its_seed0_PretrainBoth(
        kind.plans, kind.configuration, 0, kind.dataset_json, torch.device("cpu"))
    trainer.initialize()
    # nnU-Net ties DDP to CUDA, so what initialize does then is done here
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    freeze_unused(trainer.network, 1, (16, 24))
    trainer.network = DistributedDataParallel(trainer.network)
    trainer.is_ddp, trainer.local_rank = True, rank
    trainer.on_train_epoch_start()
    torch.manual_seed(rank)
    for _ in range(3):
        trainer.train_step({"data": torch.randn(2, 1, 16, 24), "target": None, "keys": [f"rank_{rank}"]})
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        steps = [trainer.validation_step({"data": torch.randn(2, 1, 16, 24) * (1 + rank)}) for _ in range(2)]
    trainer.on_validation_epoch_end(steps)
    told = {name: trainer.logger.get_value(name, step=-1) for name in ("mean_fg_dice", "val_losses")}
    told["loss"] = float(sum(step["loss"] for step in steps) / 2)
    told["weight"] = next(trainer.network.parameters()).sum().item()
    told["voxels"] = sum(step["totals"].voxels.item() for step in steps)
    Path(folder, f"told_{rank}.json").write_text(json.dumps(told))
    trainer.perform_actual_validation()
    distributed.destroy_process_group()


if __name__ == "__main__":
    multiprocessing.spawn(rank_main, (sys.argv[1],), nprocs=2)
"""


@pytest.mark.slow
def test_ranks_learn_together(tmp_path: Path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(CODE)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, env=environment, timeout=600
    )
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"told_{rank}.json").read_text()) for rank in range(2))
    assert first["weight"] == second["weight"]
    assert first["mean_fg_dice"] == second["mean_fg_dice"]
    assert first["loss"] != second["loss"]
    assert first["val_losses"] == second["val_losses"] == pytest.approx((first["loss"] + second["loss"]) / 2)
    (report,) = (tmp_path / "0").rglob("reconstruction.json")
    assert set(json.loads(report.read_text())["cases"]) == {"case_3"}
    assert not list((tmp_path / "1").rglob("reconstruction.json")), "one rank writes"
