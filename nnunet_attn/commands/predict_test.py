"""`nnunet-attn predict-test`: parses, calls, prints."""

import argparse
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nnunet_attn.errors import InputError

if TYPE_CHECKING:
    from nnunet_attn.evaluation.aggregate import MeanOfFinite
    from nnunet_attn.inference.predict_test import PredictedTest
    from nnunet_attn.inference.predict_test_request import PredictTestRequest

_SHOWN = {"dice": "Dice", "nsd": "NSD", "hd95_mm": "HD95 (mm)", "assd_mm": "ASSD (mm)"}


def add_parser(commands: Any) -> None:
    """Add the command to those of `nnunet-attn`."""
    parser = commands.add_parser(
        "predict-test", help="predict a data set's imagesTs by all folds of trainers, and evaluate where labelsTs is"
    )
    add = parser.add_argument
    add("-d", required=True, metavar="ID", help="data set name or ID")
    add("-tr", required=True, nargs="+", metavar="TRAINER", help="one trainer or several")
    add("-c", required=True, metavar="CONFIGURATION", help="for example 3d_fullres")
    add("-p", default="nnUNetPlans", metavar="PLANS", help="plans. Default: nnUNetPlans")
    add("-f", nargs="+", default=["0", "1", "2", "3", "4"], metavar="FOLD", help="folds, or all. Default: 0 1 2 3 4")
    add("-chk", default="checkpoint_final.pth", metavar="FILE", help="Default: checkpoint_final.pth")
    add("-device", default="cuda", choices=("cpu", "cuda", "mps"), help="Default: cuda")
    add("-npp", type=int, default=3, metavar="N", help="processes that prepare images. Default: 3")
    add("-nps", type=int, default=3, metavar="N", help="processes that write, average, evaluate. Default: 3")
    add("-o", type=Path, metavar="DIR", help="folder of the predictions. Default: test_attn_folds_... of the model")
    add("-prev_stage_predictions", type=Path, metavar="DIR", help="of a cascade's previous stage. Default: its own")
    add("--disable_tta", action="store_true", help="without mirroring: faster, less accurate")
    add(
        "--ensemble",
        choices=("logits", "softmax"),
        default="logits",
        help="mean of the folds' logits, as nnUNetv2_predict, or of their probabilities. Default: logits",
    )
    add("--grid", action="store_true", help="by nnunet-attn predict: PatchTransformer in one exact pass")
    add("--keep-probabilities", action="store_true", help="with --ensemble softmax: keep what is averaged")
    add("--overwrite", action="store_true", help="predict and evaluate anew")
    add("--no-evaluation", action="store_true", help="predict only")
    parser.set_defaults(run=_run)


def _run(a: argparse.Namespace) -> int:
    folds = _folds(a.f)
    from nnunet_attn.inference.predict_test import predict_test
    from nnunet_attn.inference.predict_test_request import PredictTestRequest

    request = PredictTestRequest(
        a.d,
        tuple(a.tr),
        a.c,
        a.p,
        folds,
        a.chk,
        a.device,
        a.ensemble,
        a.grid,
        not a.disable_tta,
        a.npp,
        a.nps,
        a.o,
        a.prev_stage_predictions,
        a.keep_probabilities,
        a.overwrite,
        not a.no_evaluation,
    )
    console = Console(highlight=False, soft_wrap=True)
    predicted = predict_test(request, console)
    _print(predicted, console, request)
    return 0


def _folds(words: Sequence[str]) -> tuple[int | str, ...]:
    wrong = [word for word in words if word != "all" and not word.isdecimal()]
    if wrong:
        raise InputError(f"-f {wrong[0]}: a fold is a number from 0, or all")
    numbers = sorted(int(word) for word in words if word != "all")
    return (*numbers, *(word for word in words if word == "all"))


def _print(predicted: Sequence["PredictedTest"], console: Console, request: "PredictTestRequest") -> None:
    for each in predicted:
        there = len(each.cases) - each.predicted
        counted = f"{len(each.cases)} cases" + (f", {there} of them predicted before" if there else "")
        console.print(Text(f"{each.trainer}: {counted}: {each.folder}"))
    evaluated = [each for each in predicted if each.evaluation is not None]
    if not evaluated:
        if request.evaluate:
            console.print(Text("Nothing was evaluated: the data set has no labels in labelsTs"))
        return
    from nnunet_attn.evaluation.aggregate import foreground_means

    table = Table(title="Means over cases, then over classes")
    table.add_column("trainer", overflow="fold")
    for heading in _SHOWN.values():
        table.add_column(heading, justify="right")
    infinite = 0
    for each in evaluated:
        assert each.evaluation is not None
        means = foreground_means(each.evaluation)
        infinite += sum(means[metric].n_infinite for metric in _SHOWN)
        table.add_row(each.trainer, *(_cell(means[metric]) for metric in _SHOWN))
    if not console.is_terminal:  # a file or a pipe has no width: names and figures stay whole
        console.width = max(console.width, 80 + max(len(each.trainer) for each in evaluated))
    console.print(table)
    if infinite:
        console.print(Text("inf: values left out of a mean: one of the two masks is empty, the distance infinite"))
    if len(evaluated) > 1:
        console.print(Text(f"Compare with: {shlex.join(['nnunet-attn', 'compare', *_compared(evaluated, request)])}"))
    else:
        console.print(Text("Predict with another trainer, then compare both folders: nnunet-attn compare"))


def _compared(evaluated: Sequence["PredictedTest"], request: "PredictTestRequest") -> list[str]:
    """The arguments of `compare`: the trainers where it finds their folders, else the folders."""
    if request.output is not None or request.grid or not request.mirroring:
        return [str(each.folder) for each in evaluated]
    words = ["-d", request.dataset, "-tr", *(each.trainer for each in evaluated)]
    words += ["-c", request.configuration] if request.configuration != "3d_fullres" else []
    words += ["-p", request.plans] if request.plans != "nnUNetPlans" else []
    words += ["-f", *map(str, request.folds)] if request.folds != (0, 1, 2, 3, 4) else []
    words += ["-chk", request.checkpoint] if request.checkpoint != "checkpoint_final.pth" else []
    words += ["--ensemble", request.ensemble] if request.ensemble != "logits" else []
    return [*words, "--test"]


def _cell(mean: "MeanOfFinite") -> str:
    shown = "-" if math.isnan(mean.mean) else f"{mean.mean:.4f}"
    return shown + (f" ({mean.n_infinite} inf)" if mean.n_infinite else "")
