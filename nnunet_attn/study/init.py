"""A new study.yaml, with comments, for the user to change."""

import json
import re
import shlex
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_attn.errors import InputError
from nnunet_attn.study.matrix import nnunet_folder
from nnunet_attn.study.messages import nearest

if TYPE_CHECKING:
    from nnunet_attn.study.model import Study
    from nnunet_attn.study.trainers import Trainer

REFERENCES = ("nnUNetTrainerPlain", "nnUNetTrainer")
TRAINERS = (REFERENCES[0], "nnUNetTrainerGASA")

_TEXT = """\
# A study: trainers compared on data sets, everything else equal. Every field: docs/reference/study.md
# Check it before anything starts: nnunet-attn study check {file}

name: {name}

# Numbers or names of data sets. They share nothing: each has trainings of its own.
datasets: [{datasets}]

# One row a method: a trainer's name, with suffixes if you like, or a table with more.
trainers:
{rows}
  # - trainer: nnUNetTrainerGASA
  #   name: GASA wide                          # in tables; needed where a trainer is there twice
  #   options: {{embed_dim: 50, num_heads: 10}}  # of its network, in plans of their own
  #   plans: nnUNetResEncUNetMPlans            # in place of those below
  #   configuration: 2d                        # in place of those below
  #   pretrain: denoise                        # denoise, inpaint or both, on images without labels
  #   labels: [5, 10]                          # folds with so few labelled cases: nnunet-attn splits --labels
  #   ensemble: softmax                        # how folds predict the test set together; else logits

# The one that the others are compared with.
reference: {reference}

plans: nnUNetPlans
configurations: [3d_fullres]
folds: [0, 1, 2, 3, 4]

# One training each. Without seeds every training draws its own, and chance cannot be told from the method.
# seeds: [0, 1, 2]

# How much each is trained; nnU-Net's own are 1000 epochs of 250 iterations. A name with _<N>epochs keeps its own.
# Also width, a factor on the planned features, and batch_size; save: epochs between two checkpoints to resume from.
# budget: {{epochs: 250, iterations: 250}}

# Predict the test cases in imagesTs, too.
test_set: false

# As nnunet-attn evaluate takes them; all metrics, 1 mm and area by default.
# metrics: [dice, nsd, hd95_mm]
# tolerance: 1                                 # or by class, such as {{kidney: 1.5}}, or kits23
# surface: area

# cpu, cuda or mps; by default CUDA where there is one.
# device: cuda

# Cases that figures show in any case.
# cases: []

# What belongs to the comparison, and cannot be trained.
# missing: []
"""


def write_study(file: Path, datasets: Sequence[str] | None = None, trainers: Sequence[str] | None = None) -> "Study":
    """Write a commented study.yaml and return what it says.

    Args:
        file: New file, in a folder that exists.
        datasets: Numbers or names; None: the data sets that have nnUNetPlans.
        trainers: Names; None: plain nnU-Net and GASA-UNet. Plain nnU-Net, as long as the first of them, is put in
            front as the reference if it is not among them.
    Raises:
        InputError: If the file is there or cannot be written, a data set or trainer cannot be in a study, or no data
            set is given and none is planned.
    """
    from nnunet_attn.study.document import parsed_document
    from nnunet_attn.study.model import study_of
    from nnunet_attn.study.trainers import named_trainer

    if file.exists() or file.is_symlink():
        raise InputError(f"{file} exists and is never overwritten; give another name, or change it and check it")
    for flag, values in (("-d", datasets or ()), ("-tr", trainers or ())):
        if twice := next((each for each in values if list(values).count(each) > 1), None):
            raise InputError(f"{flag} {twice} is given twice; give each once")
    for text in datasets or ():
        if not re.fullmatch(r"Dataset\d{3}_.+|0*[1-9]\d{0,2}", text):
            raise InputError(f"-d {text}: give a data set's number, 1 to 999, or its name, such as Dataset004_Liver")
    found = [named_trainer(name) for name in trainers or TRAINERS]
    reference = next((each.name for each in found if each.base in REFERENCES), None)
    names = [each.name for each in found]
    if reference is None:
        reference = _as_long_as(found[0])
        names.insert(0, reference)
    chosen = [text if text.isdecimal() else _scalar(text) for text in datasets or _planned()]
    text = _TEXT.format(
        file=shlex.quote(str(file)),
        name=_scalar(re.sub(r"[^A-Za-z0-9 .+-]", "-", file.stem).strip(" .+-") or "study"),
        datasets=", ".join(chosen),
        rows="\n".join(f"  - {name}" for name in names),
        reference=reference,
    )
    study = study_of(parsed_document(text, file))
    _write(file, text)
    return study


def shipped_studies() -> dict[str, Path]:
    """Return the studies that come with this package: name -> file, in the order of names."""
    folder = Path(str(files("nnunet_attn.studies")))
    return {file.stem: file for file in sorted(folder.glob("*.yaml"), key=lambda each: each.stem)}


def copy_shipped_study(file: Path, name: str) -> "Study":
    """Write a copy of a study that comes with this package, with its comments, and return what it says.

    Args:
        file: New file, in a folder that exists.
        name: Of `shipped_studies`.
    Raises:
        InputError: If there is no study of this name, or the file is there or cannot be written.
    """
    from nnunet_attn.study.document import parsed_document
    from nnunet_attn.study.model import study_of

    shipped = shipped_studies()
    if name not in shipped:
        raise InputError(
            f"--like {name}: there is no such study{nearest(name, shipped)}; there are {', '.join(shipped)}"
        )
    if file.exists() or file.is_symlink():
        raise InputError(f"{file} exists and is never overwritten; give another name, or change it and check it")
    text = shipped[name].read_text(encoding="utf-8")
    study = study_of(parsed_document(text, file))
    _write(file, text)
    return study


def _as_long_as(trainer: "Trainer") -> str:
    """The reference with another trainer's number of epochs and iterations."""
    units = {"epochs": "epochs", "iterations_per_epoch": "its"}
    lengths = [f"{trainer.attributes[name]}{unit}" for name, unit in units.items() if name in trainer.attributes]
    return "_".join([REFERENCES[0], *lengths])


def _planned() -> list[str]:
    names = sorted(
        path.parent.name for path in nnunet_folder("nnUNet_preprocessed").glob("Dataset*_*/nnUNetPlans.json")
    )
    if not names:
        raise InputError("no data set is planned yet; name one: nnunet-attn study init -d ID")
    return names


def _scalar(text: str) -> str:
    """Text as YAML, which is quoted where it would be something else."""
    is_plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", text) and text.lower() not in ("true", "false", "null")
    return text if is_plain else json.dumps(text)


def _write(file: Path, text: str) -> None:
    try:
        with file.open("x", encoding="utf-8") as opened:  # fails where a file is, also one made just now
            opened.write(text)
    except FileExistsError as error:
        raise InputError(f"{file} exists and is never overwritten; give another name") from error
    except OSError as error:
        raise InputError(f"cannot write {file} ({error.strerror}): choose another place") from error
