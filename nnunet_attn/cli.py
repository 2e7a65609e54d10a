"""The command `nnunet-attn`: parses, calls, prints."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nnunet_attn import __version__
from nnunet_attn.architectures.published_keys import SOURCES
from nnunet_attn.architectures.registry import NETWORKS
from nnunet_attn.commands import compare, evaluate, figure, predict_test, register, splits, study
from nnunet_attn.errors import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    0; 1 where `doctor` found a problem; 2 for wrong input or a failed stock command; 130 after Ctrl-C.
    """
    from nnunet_attn.stock import StockCommandError

    parsed = _parser().parse_args(arguments)
    try:
        return parsed.run(parsed)
    except (InputError, StockCommandError) as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(Text(f"nnunet-attn: error: {error}"))
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnunet-attn", description="Published attention networks, trained by stock nnU-Net v2 commands."
    )
    parser.add_argument("--version", action="version", version=f"nnunet-attn {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="train and compare two networks on made data, in minutes, also on a CPU")
    demo.add_argument("--dim", type=int, choices=(2, 3), default=3, help="2D or 3D images. Default: 3")
    demo.add_argument("--keep", type=Path, metavar="DIR", help="keep everything in this folder (new or empty)")
    demo.add_argument("--epochs", type=int, help="epochs of each training. Default: enough to learn all organs")
    demo.add_argument("--its", type=int, help="iterations of an epoch. Default: enough to learn all organs")
    demo.set_defaults(run=_demo)

    listing = commands.add_parser("list", help="networks, their trainers, dimensions and sources")
    listing.add_argument("--json", action="store_true", help="as JSON")
    listing.set_defaults(run=_list)

    doctor = commands.add_parser("doctor", help="check folders, versions, look-ups; exit code 1 with the remedy if not")
    doctor.add_argument("trainer", nargs="?", metavar="NAME", help="explain this trainer name instead")
    doctor.set_defaults(run=_doctor)

    trainers = commands.add_parser("trainers-dir", help="the folder that the variable nnUNet_extTrainer has to name")
    trainers.set_defaults(run=_trainers_dir)

    weights = commands.add_parser("import-weights", help="fit weights of another network into a trainer's network")
    weights.add_argument(
        "source",
        choices=("nnunet", *SOURCES),
        help="what wrote the file: nnU-Net v2, or a published code",
    )
    weights.add_argument("file", type=Path, metavar="FILE", help="the checkpoint")
    weights.add_argument("-d", required=True, metavar="ID", help="data set name or ID to train on")
    weights.add_argument("-c", required=True, metavar="CONFIGURATION", help="for example 3d_fullres")
    weights.add_argument("-p", default="nnUNetPlans", metavar="PLANS", help="plans. Default: nnUNetPlans")
    weights.add_argument("-tr", required=True, metavar="TRAINER", help="for example nnUNetTrainerGASA")
    weights.add_argument("-o", required=True, type=Path, metavar="OUT", help="file to write, for -pretrained_weights")
    weights.set_defaults(run=_import_weights)

    # nnU-Net's own parser reads the rest, help included: nothing here may look like an option of this one
    predict = commands.add_parser(
        "predict",
        help="nnUNetv2_predict with its flags; PatchTransformer in one exact pass over each image",
        add_help=False,
        prefix_chars="+",
    )
    predict.add_argument("words", nargs=argparse.REMAINDER, help="arguments of nnUNetv2_predict, and --phases")
    predict.set_defaults(run=_predict)

    register.add_parser(commands)
    predict_test.add_parser(commands)
    splits.add_parser(commands)
    evaluate.add_parser(commands)
    compare.add_parser(commands)
    figure.add_parser(commands)
    study.add_parser(commands)

    maps = commands.add_parser("attention-maps", help="show where a trained network looks, in the image's own geometry")
    maps.add_argument("-d", required=True, metavar="ID", help="data set name or ID it was trained on")
    maps.add_argument("-tr", required=True, metavar="TRAINER", help="for example nnUNetTrainerGASA")
    maps.add_argument("-f", default="0", metavar="FOLD", help="fold, or all. Default: 0")
    maps.add_argument("-i", required=True, type=Path, metavar="IMAGES", help="folder of images, or one image")
    maps.add_argument("-o", required=True, type=Path, metavar="DIR", help="folder to write to")
    maps.add_argument("-c", metavar="CONFIGURATION", help="Default: the only one that has been trained")
    maps.add_argument("-p", default="nnUNetPlans", metavar="PLANS", help="plans. Default: nnUNetPlans")
    maps.add_argument("-chk", default="checkpoint_final.pth", metavar="FILE", help="Default: checkpoint_final.pth")
    maps.add_argument("-device", default="cuda", choices=("cpu", "cuda", "mps"), help="Default: cuda")
    maps.add_argument("-prev_stage_predictions", type=Path, metavar="DIR", help="of a cascade's previous stage")
    maps.add_argument("--stages", nargs="+", metavar="NAME", help="only these stages, also NAME,NAME. Default: all")
    maps.add_argument("--heads", default="mean", choices=("mean", "all"), help="all: also files of the single heads")
    maps.add_argument("--voxel", metavar="I,J,K", help="what this voxel of the image file attends to, from 0")
    maps.add_argument("--query", default="all", choices=("all", "centre"), help="PatchTransformer: whose attention")
    maps.add_argument("--no-self", action="store_true", help="PatchTransformer: without attention to oneself")
    maps.set_defaults(run=_attention_maps)

    pretrain = commands.add_parser("pretrain", help="learn from images without labels first, for -pretrained_weights")
    pretrain.add_argument("-d", required=True, metavar="ID", help="data set whose images are learned from")
    pretrain.add_argument("-tr", required=True, metavar="TRAINER", help="trainer to fine-tune with")
    pretrain.add_argument("-c", required=True, metavar="CONFIGURATION", help="for example 3d_fullres")
    pretrain.add_argument("-p", default="nnUNetPlans", metavar="PLANS", help="plans to fine-tune with")
    pretrain.add_argument("--for", dest="target", metavar="ID", help="planned data set to fine-tune on. Default: -d")
    pretrain.add_argument(
        "--task",
        required=True,
        choices=("denoise", "inpaint", "both"),
        help="take noise away, fill in what is hidden, or one of the two for each step",
    )
    pretrain.add_argument("--c", action="store_true", dest="resume", help="continue a training that was broken off")
    pretrain.add_argument("-device", choices=("cpu", "cuda", "mps"), help="Default: cuda where there is one, else cpu")
    pretrain.add_argument("--num-gpus", type=int, default=1, metavar="N", help="GPUs to train on. Default: 1")
    pretrain.add_argument("--npp", type=int, default=4, metavar="N", help="processes that prepare images. Default: 4")
    pretrain.set_defaults(run=_pretrain)
    return parser


def _demo(arguments: argparse.Namespace) -> int:
    from nnunet_attn.demo import run_demo

    for flag, value in (("--epochs", arguments.epochs), ("--its", arguments.its)):
        if value is not None and value < 1:
            raise InputError(f"{flag} must be at least 1, got {value}")
    chosen = {"epochs": arguments.epochs, "iterations": arguments.its}
    given = {key: value for key, value in chosen.items() if value is not None}
    run_demo(dim=arguments.dim, keep=arguments.keep, console=Console(highlight=False), **given)
    return 0


def _list(arguments: argparse.Namespace) -> int:
    if arguments.json:
        rows = [asdict(network) for network in NETWORKS]
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return 0
    table = Table(show_lines=True)
    for heading in ("network", "trainers", "dimensions", "what it is", "source"):
        table.add_column(heading, no_wrap=heading in ("network", "trainers"), overflow="fold")
    for network in NETWORKS:
        dims = ", ".join(f"{d}D" for d in network.dims) + (", cascade" if network.cascade else "")
        table.add_row(network.name, "\n".join(network.trainers), dims, network.title, network.source)
    Console().print(table)
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from nnunet_attn.doctor import examine, explain_trainer

    findings = [explain_trainer(arguments.trainer)] if arguments.trainer else examine()
    console = Console(highlight=False, soft_wrap=True)
    colours = {"ok": "green", "note": "yellow", "problem": "red"}
    for finding in findings:
        console.print(Text.assemble((f"{finding.state:8}", colours[finding.state]), f"{finding.what}: {finding.text}"))
        if finding.remedy:
            console.print(Text(f"{'':8}-> {finding.remedy}"))
    return int(any(finding.state == "problem" for finding in findings))


def _trainers_dir(_: argparse.Namespace) -> int:
    from nnunet_attn.paths import trainers_dir

    sys.stdout.write(f"{trainers_dir()}\n")
    return 0


def _import_weights(arguments: argparse.Namespace) -> int:
    from nnunet_attn.training.weights import SEGMENTATION_HEADS, import_weights

    a = arguments
    report = import_weights(a.source, a.file, a.d, a.c, a.p, a.tr, a.o)
    console = Console(highlight=False, soft_wrap=True)
    console.print(Text(f"kept: {len(report.kept)} tensors"))
    for title, keys in (
        ("resampled or taken over in part", report.resampled),
        ("freshly initialised", report.fresh),
        ("not used", report.unused),
    ):
        console.print(Text(f"{title}: {len(keys)}" + "".join(f"\n  {key}" for key in keys)))
    console.print(Text(f"nnU-Net itself initialises the output layers ({SEGMENTATION_HEADS}) anew."))
    console.print(Text(f"Train with: nnUNetv2_train {a.d} {a.c} 0 -p {a.p} -tr {a.tr} -pretrained_weights {a.o}"))
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    from nnunet_attn.inference.predict import predict

    predict(arguments.words)
    return 0


def _attention_maps(arguments: argparse.Namespace) -> int:
    from nnunet_attn.inference.attention_maps import MapOptions, parsed_stages, parsed_voxel, write_attention_maps
    from nnunet_attn.inference.attention_model import ModelName, find_cases, load_model

    a = arguments
    options = MapOptions(parsed_stages(a.stages), a.heads, parsed_voxel(a.voxel), a.query, not a.no_self)
    model = load_model(ModelName(a.d, a.tr, a.f, a.c, a.p, a.chk), a.device)
    cases = find_cases(a.i, model.dataset_json["file_ending"])
    console = Console(highlight=False, soft_wrap=True)
    for case, files in write_attention_maps(model, cases, a.o, options, a.prev_stage_predictions):
        console.print(Text(f"{case}: {len(files)} files, among them {files[-2]}"))
    return 0


def _pretrain(arguments: argparse.Namespace) -> int:
    from nnunet_attn.pretraining.chain import run_pretraining
    from nnunet_attn.pretraining.request import Pretraining

    a = arguments
    request = Pretraining(
        a.d, a.tr, a.c, a.p, a.target, a.task, a.resume, device=a.device, num_gpus=a.num_gpus, workers=a.npp
    )
    run_pretraining(request, Console(highlight=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
