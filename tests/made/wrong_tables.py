"""Wrong tables and patterns for `nnunet-attn register`."""

from collections.abc import Sequence
from pathlib import Path

from tests.made.wrong import Make, Wrong, after
from tests.made.wrong_files import REGISTER, scans

TABLE = (*REGISTER, "--csv", "cases.csv")


def _table(*lines: str, encoding: str = "utf-8") -> Make:
    """Write four cases and a table."""

    def make(_: Path) -> Sequence[object]:
        scans(count=4)
        Path("cases.csv").write_text("\n".join(lines) + "\n", encoding=encoding)
        return TABLE

    return make


def _rows(columns: str, *more: str) -> list[str]:
    """Lines of a table of some cases, with these cells at their ends."""
    own = [f"images/case_{n}.nii.gz,labels/case_{n}.nii.gz" for n in range(len(more))]
    return [f"image,label,{columns}", *(f"{line},{cells}" for line, cells in zip(own, more, strict=True))]


def _pattern(*words: object) -> Make:
    return after(lambda _: scans(), *REGISTER, *words)


TABLES = (
    Wrong(
        "a patient in training and in test",
        "patient anna is in training (case_0) and in test (case_1); a patient's cases belong to one split",
        "move them",
        _table(*_rows("patient,split", "anna,train", "anna,test", "bob,train")),
    ),
    Wrong(
        "patients that do not make the number held out",
        "--test 1: all cases of a patient are held out together, and whole patients do not make 1",
        "ask for --test 2",
        lambda folder: [*_table(*_rows("patient", "anna", "anna", "bob", "bob"))(folder), "--test", "1"],
    ),
    Wrong(
        "a table that is not there",
        "cases.csv cannot be read (No such file or directory)",
        "name a CSV file",
        lambda _: TABLE,
    ),
    Wrong(
        "a column that is not known",
        "cases.csv, line 1: the column 'age' is not known",
        "columns are image, image_0000, image_NAME, label, case, patient, site, split",
        _table(*_rows("age", "3", "4", "5")),
    ),
    Wrong(
        "a table without images",
        "cases.csv: it has no column image; columns are label",
        "name the one of the images",
        _table("label", "labels/case_0.nii.gz"),
    ),
    Wrong(
        "a table that names a missing file",
        "cases.csv, line 2: image images/case_9.nii.gz does not exist",
        "relative paths start at the folder of the table",
        _table("image,label", "images/case_9.nii.gz,labels/case_0.nii.gz"),
    ),
    Wrong(
        "an empty cell",
        "cases.csv, line 3: the column patient is empty",
        "fill it in, or take the line out",
        _table(*_rows("patient", "anna", "")),
    ),
    Wrong(
        "too few cells in a line",
        "cases.csv, line 2: it has 1 cell, the line of column names 2",
        "look for separators in names, which need quotation marks",
        _table("image,label", "images/case_0.nii.gz"),
    ),
    Wrong(
        "a word that is no split",
        "cases.csv, line 3: column split: the split 'val' is neither train nor test; nnU-Net takes its validation "
        "cases from those for training",
        "write train",
        _table(*_rows("split", "train", "val")),
    ),
    Wrong(
        "a case named twice in a table",
        "cases.csv, line 3: the case 'a' is in line 2 too",
        "keep one of them",
        _table(*_rows("case", "a", "a")),
    ),
    Wrong(
        "names that differ in nothing but capitals",
        "A: 2 cases have this name (images/case_1.nii.gz, images/case_0.nii.gz)",
        "give each a name of its own",
        _table(*_rows("case", "a", "A")),
    ),
    Wrong(
        "a table that is not UTF-8",
        "cases.csv is not UTF-8 (...)",
        "save it as CSV in UTF-8",
        _table(*_rows("site", "Köln"), encoding="latin-1"),
    ),
    Wrong(
        "a pattern that no file fits",
        "no file fits --pattern 'scans/{case}.nii.gz'",
        "quote it, and look at its folders and ending",
        _pattern("--pattern", "scans/{case}.nii.gz"),
    ),
    Wrong(
        "a pattern without `{case}`",
        "--pattern 'images/*.nii.gz' has no {case}",
        "put it where the name of the case stands",
        _pattern("--pattern", "images/*.nii.gz"),
    ),
    Wrong(
        "braces that mean nothing",
        "--pattern 'images/{id}.nii.gz': {id} is not known",
        "in braces stand {case}, {channel}, {patient}, {site}, {split}",
        _pattern("--pattern", "images/{id}.nii.gz"),
    ),
    Wrong(
        "a pattern for which two files are one image",
        "case_0: images/case_0.nii.gz and labels/case_0.nii.gz are both its image",
        "let {case} cover what tells them apart, or join groups, for example --case-name '{patient}_{case}'",
        _pattern("--pattern", "*/{case}.nii.gz"),
    ),
)
