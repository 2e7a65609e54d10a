"""A data set with one foreground label from one with several: `python -m nnunet_attn.datasets.binary --help`.

All foreground labels become one, and some cases are held out for testing, drawn by a seed. The images are links to
those of the data set that it is made from, which stays as it is.
"""

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from rich.console import Console

from nnunet_attn.datasets.raw import check_new_dataset
from nnunet_attn.datasets.subset import case_images, dataset_name, read_description
from nnunet_attn.errors import InputError
from nnunet_attn.paths import NNUNET_FOLDERS, make_folder

ENTRY = "nnunet_attn"
"""Key of the new data set's dataset.json: what it was made from."""

BINARY, IGNORED = 1, 2
_KEPT = ("channel_names", "file_ending", "overwrite_image_reader_writer", "reference", "licence")


def merged_labels(
    source: Path,
    raw_folder: Path,
    new_id: int,
    name: str,
    held_out: int = 44,
    seed: int = 0,
    label: str = "foreground",
) -> Path:
    """Write a data set whose only label is all of `source`'s together, complete or not at all; return its folder.

    `held_out` of the labelled cases, drawn by the seed, go to `imagesTs`, `labelsTs`, the others to `imagesTr`,
    `labelsTr`. What `source` ignores is ignored. Images are symbolic links, or copies where there are no such links.

    Args:
        source: Data set in nnU-Net's raw format; not changed.
        raw_folder: nnU-Net's raw folder to write to; made if missing.
        new_id: Number of the new data set, from 1 to 999.
        name: Part of its name after `DatasetNNN_`.
        held_out: Cases for testing.
        seed: The same seed holds out the same cases.
        label: Name of the label.
    Raises:
        InputError: If an argument is out of its range, a data set of this number exists, or `source` has no
            foreground, not every image of a case, or a label that its dataset.json does not name.
    """
    description = read_description(source)
    foreground, ignored = _values(source, description)
    if not re.fullmatch(r"\w+", name):
        raise InputError(f"name={name!r}: a data set's name is made of letters, digits and underscores")
    if label in ("background", "ignore", ""):
        raise InputError(f"label={label!r}: nnU-Net has another use for this name; choose one for the foreground")
    files = sorted((source / "labelsTr").glob(f"*{description['file_ending']}"))
    if held_out < 0:
        raise InputError(f"held_out={held_out}: the number of cases held out is 0 or larger")
    if len(files) < held_out + 5:
        raise InputError(
            f"{source} has {len(files)} labelled cases; {held_out} held out leave fewer than the 5 that nnU-Net's "
            "folds need: hold out fewer"
        )
    check_new_dataset(raw_folder, new_id, len(files) - held_out, held_out, seed)
    # RandomState, as in nnU-Net: NumPy keeps its numbers the same in all versions
    drawn = {files[index] for index in np.random.RandomState(seed).permutation(len(files))[:held_out]}
    parts = {"Tr": [file for file in files if file not in drawn], "Ts": sorted(drawn)}
    images = {file: case_images(source, description, file) for file in files}
    reader = _reader(description, images[files[0]][0])
    for file, own in images.items():
        # what nnU-Net reads the spacing of 3D TIFF images from
        spacing = source / "imagesTr" / f"{file.name.removesuffix(description['file_ending'])}.json"
        own += [spacing] if spacing.is_file() else []
    make_folder(raw_folder)
    folder_name = f"Dataset{new_id:03d}_{name}"
    with tempfile.TemporaryDirectory(prefix=".binary-", dir=raw_folder) as temporary:
        partial = Path(temporary) / folder_name
        for suffix, chosen in parts.items():
            (partial / f"images{suffix}").mkdir(parents=True)
            (partial / f"labels{suffix}").mkdir()
            for file in chosen:
                link_files(images[file], partial / f"images{suffix}")
                _write_merged(reader, file, partial / f"labels{suffix}" / file.name, foreground, ignored)
        content = {
            **{key: description[key] for key in _KEPT if key in description},
            "labels": {"background": 0, label: BINARY, **({} if ignored is None else {"ignore": IGNORED})},
            "numTraining": len(parts["Tr"]),
            ENTRY: {
                "merged_from": dataset_name(source),
                "merged_labels": sorted(foreground),
                "held_out": held_out,
                "seed": seed,
            },
        }
        (partial / "dataset.json").write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
        return partial.rename(raw_folder / folder_name)


def link_files(files: Iterable[Path], folder: Path) -> None:
    """Link files into a folder under their own names, or copy them where one may not make links."""
    for file in files:
        target = folder / file.name
        try:
            target.symlink_to(file.resolve())
        except OSError:
            shutil.copyfile(file, target)


def _values(source: Path, description: Mapping[str, Any]) -> tuple[set[int], int | None]:
    """Return the values of all foreground labels, regions taken apart, and the value that is ignored."""
    values: dict[str, list[Any]] = {
        name: value if isinstance(value, list) else [value] for name, value in description["labels"].items()
    }
    for name, given in values.items():
        if not given or any(type(value) is not int or value < 0 for value in given):
            raise InputError(f"{source / 'dataset.json'}: label {name!r} is {given!r}; nnU-Net's are integers from 0")
    ignored = values.pop("ignore", [None])[0]
    foreground = {value for given in values.values() for value in given if value > 0} - {ignored}
    if not foreground:
        raise InputError(f"{source / 'dataset.json'} names no label but the background; there is nothing to merge")
    return foreground, ignored


def _reader(description: Mapping[str, Any], example: Path) -> Any:
    try:
        return determine_reader_writer_from_dataset_json(dict(description), str(example), verbose=False)()
    except RuntimeError as error:
        raise InputError(f"{example} cannot be read by nnU-Net ({error})") from error


def _write_merged(reader: Any, file: Path, target: Path, foreground: set[int], ignored: int | None) -> None:
    try:
        values, properties = reader.read_seg(str(file))
    except Exception as error:  # a damaged file makes a reader raise anything
        raise InputError(f"{file} cannot be read ({error}); mend or remove this case") from error
    found = set(np.unique(values).tolist())
    unknown = sorted(found - foreground - {0, ignored})
    if unknown:
        raise InputError(f"{file} has the label {unknown[0]:g}, which dataset.json does not name; mend one of them")
    merged = np.isin(values[0], sorted(foreground)).astype(np.uint8) * np.uint8(BINARY)
    if ignored is not None:
        merged[values[0] == ignored] = IGNORED
    reader.write_seg(merged, str(target), properties)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m nnunet_attn.datasets.binary", description=__doc__)
    parser.add_argument("source", type=Path, metavar="FOLDER", help="data set in nnU-Net's raw format")
    parser.add_argument("--id", type=int, required=True, metavar="N", help="number of the new data set, 1 to 999")
    parser.add_argument("--name", required=True, help="its name, without DatasetNNN_")
    parser.add_argument("--raw", type=Path, metavar="DIR", help="raw folder to write to. Default: nnUNet_raw")
    parser.add_argument("--held-out", type=int, default=44, metavar="N", help="cases for testing. Default: 44")
    parser.add_argument("--seed", type=int, default=0, help="of the choice. Default: 0")
    parser.add_argument("--label", default="foreground", help="name of the one label. Default: foreground")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 2 for wrong input."""
    args = _parser().parse_args(argv)
    raw = args.raw or os.environ.get(NNUNET_FOLDERS[0])
    try:
        if raw is None:
            raise InputError("nnUNet_raw is not set; set it, or name a folder by --raw")
        made = merged_labels(args.source, Path(raw), args.id, args.name, args.held_out, args.seed, args.label)
    except InputError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error}", markup=False)
        return 2
    counts = [len(list((made / f"labels{suffix}").iterdir())) for suffix in ("Tr", "Ts")]
    told = f"{made}: {counts[0]} cases for training, {counts[1]} for testing"
    Console(highlight=False, soft_wrap=True).print(told, markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
