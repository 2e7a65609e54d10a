"""From images without labels to a fine-tuned network, by the command and what it prints."""

import hashlib
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from nnunet_attn.cli import main
from nnunet_attn.stock import StockCommandError, run_stock
from tests.integration.conftest import DATASET, PLANS, Workspace

pytestmark = pytest.mark.slow

UNLABELLED = "Dataset010_Unlabelled"
BODY_MASKS = "Dataset999_UnlabelledBodyMask"


def state_of(folder: Path) -> dict[str, str]:
    """Return a digest of every file below a folder, and what links point to."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def with_unlabelled(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A planned data set, and another one with images alone."""
    root = tmp_path / "pretraining"
    for part in ("raw", "preprocessed"):
        shutil.copytree(workspace.root / part, root / part)
    source = root / "raw" / workspace.name
    target = root / "raw" / UNLABELLED / "imagesTr"
    target.mkdir(parents=True)
    for image in sorted((source / "imagesTr").iterdir())[:3]:
        shutil.copy(image, target / f"other_{image.name}")
    description = json.loads((source / "dataset.json").read_text())
    kept = {key: description[key] for key in ("channel_names", "file_ending")}
    (root / "raw" / UNLABELLED / "dataset.json").write_text(json.dumps(kept))
    made = Workspace(root, workspace.name)
    for key, value in made.environment().items():
        monkeypatch.setenv(key, value)
    return made


def pretrain(trainer: str, configuration: str, *more: object) -> int:
    words = ["pretrain", "-d", 10, "-tr", trainer, "-c", configuration, "-p", PLANS, "--for", DATASET, "-device", "cpu"]
    return main([str(word) for word in [*words, "--npp", 2, *more]])


def test_learns_from_images_alone_and_fine_tunes_with_the_printed_command(
    with_unlabelled: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer, configuration, task = "nnUNetTrainerPatchTransformer_1epochs_1its", "3d_fullres", "inpaint"
    raw = with_unlabelled.root / "raw"
    before = state_of(raw / UNLABELLED)
    assert pretrain(trainer, configuration, "--task", task) == 0
    printed = capsys.readouterr().out
    assert state_of(raw / UNLABELLED) == before, "the user's folder stays as it is"
    assert {path.name for path in raw.iterdir()} == {with_unlabelled.name, UNLABELLED, BODY_MASKS}
    fold = next((with_unlabelled.root / "results" / BODY_MASKS).glob(f"{trainer}_Pretrain*/fold_all"))
    assert fold.parent.name == f"{trainer}_Pretrain{task.title()}__{PLANS}_for_004__{configuration}"
    report = json.loads((fold / "validation" / "reconstruction.json").read_text())
    assert len(report["cases"]) == 3
    assert set(report["mean"]) == {task}
    assert (fold / "reconstructions" / "epoch_0000.png").is_file()

    command = printed.strip().splitlines()[-1]
    file = fold / "pretrained_weights.pth"
    wanted = f"nnUNetv2_train 4 {configuration} 0 -p {PLANS} -tr {trainer} -pretrained_weights {file} -device cpu"
    assert shlex.split(command) == shlex.split(wanted)
    words = shlex.split(command)
    log = run_stock(words[0], words[1:], with_unlabelled.environment(), with_unlabelled.root / "log.txt")
    assert "Loading pretrained weights from file" in log
    assert (with_unlabelled.model(configuration, trainer) / "fold_0" / "validation" / "summary.json").is_file()

    # what is done is not done again
    again = state_of(with_unlabelled.root / "results")
    assert pretrain(trainer, configuration, "--task", task) == 0
    printed = capsys.readouterr().out
    assert "Pre-trained already" in printed and printed.strip().splitlines()[-1] == command
    assert "$ nnUNetv2" not in printed
    assert state_of(with_unlabelled.root / "results") == again

    # the same shapes, other heads: nnU-Net's command refuses them, and the weights are not taken for those wanted
    plans_file = with_unlabelled.root / "preprocessed" / with_unlabelled.name / f"{PLANS}.json"
    plans = json.loads(plans_file.read_text())
    options = plans["configurations"][configuration]["nnunet_attn"]["PatchTransformer"]
    options["num_heads"], options["head_dim"] = 2 * options["num_heads"], options["head_dim"] // 2
    plans_file.write_text(json.dumps(plans))
    with pytest.raises(StockCommandError, match=r"num_heads is \d+ there and \d+ here"):
        with_unlabelled.train(configuration, 1, "-pretrained_weights", fold / "checkpoint_final.pth", trainer=trainer)
    assert not list((with_unlabelled.model(configuration, trainer) / "fold_1").glob("*.pth"))
    assert pretrain(trainer, configuration, "--task", task) == 2
    assert "nnunet_attn: these have changed since the pre-training" in capsys.readouterr().err


def test_a_labelled_data_set_is_used_with_what_it_has(
    with_unlabelled: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    preprocessed = state_of(with_unlabelled.root / "preprocessed")
    trainer = "nnUNetTrainerPlain_2epochs_1its_NoMirroring"
    words = ["pretrain", "-d", DATASET, "-tr", trainer, "-c", "2d", "-p", PLANS, "--task", "denoise", "-device", "cpu"]
    assert main([str(word) for word in words]) == 0
    printed = capsys.readouterr().out
    commands = [line for line in printed.splitlines() if line.startswith("$ ")]
    assert len(commands) == 1 and commands[0].startswith("$ nnUNetv2_train 4 2d all")
    assert state_of(with_unlabelled.root / "preprocessed") == preprocessed
    fold = with_unlabelled.model("2d", f"{trainer}_PretrainDenoise") / "fold_all"
    checkpoint = fold / "checkpoint_final.pth"
    given = torch.load(fold / "pretrained_weights.pth", weights_only=True)
    final = torch.load(checkpoint, weights_only=False)["network_weights"]
    assert given["network_weights"].keys() == final.keys()
    assert all(torch.equal(given["network_weights"][key], final[key]) for key in final)

    # one that was broken off is continued only when asked to
    (fold / "pretrained_weights.pth").unlink()
    checkpoint.rename(fold / "checkpoint_latest.pth")
    assert main([str(word) for word in words]) == 2
    assert "continue it with --c" in capsys.readouterr().err
    assert main([str(word) for word in [*words, "--c"]]) == 0
    assert re.search(r"\$ nnUNetv2_train .* --c$", capsys.readouterr().out, re.MULTILINE)
    assert (fold / "pretrained_weights.pth").is_file()

    # its network cannot predict labels
    images = with_unlabelled.images
    output = with_unlabelled.root / "predicted"
    predict = ("-i", images, "-o", output, "-d", DATASET, "-c", "2d", "-f", "all", "-p", PLANS, "-device", "cpu")
    with pytest.raises(StockCommandError, match="gives images, not segmentations"):
        with_unlabelled.run("nnUNetv2_predict", *predict, "-tr", f"{trainer}_PretrainDenoise")
