"""MoNuSeg 2018: nuclei in H&E-stained tissue, annotated by polygons."""

import os
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnunet_attn.errors import InputError
from nnunet_attn.registering.layouts.contract import LayoutData, LayoutOptions
from nnunet_attn.registering.layouts.trees import (
    PaperSplit,
    checked_folder,
    divided,
    levels,
    missing_tree,
    named_files,
    no_choice,
    paired,
)
from nnunet_attn.registering.model import SourceCase

NAME = "monuseg"
URL = "https://monuseg.grand-challenge.org"

_IMAGES, _ANNOTATIONS = "Tissue Images", "Annotations"
_PAPER = PaperSplit("MedT", 30, 14)
_FEWEST_VERTICES = 3  # the annotations have a few outlines of one or two points, which enclose nothing


@dataclass(frozen=True)
class PolygonMask:
    """A binary label made from outlines: 1 inside of any, 0 elsewhere.

    A pixel is inside if its centre is; whole numbers in the file are centres of pixels, as the array counts them.

    Args:
        file: XML of Aperio ImageScope: `Region` with `Vertex` elements, whose `X` and `Y` are columns and rows.
    """

    file: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """The file."""
        return (self.file,)

    def read(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return the label (y x), 0 and 1.

        Raises:
            InputError: If the file is damaged, holds no outline, or one lies outside of the image.
        """
        from skimage.draw import polygon  # only where outlines are drawn: finding the files needs none of it

        if len(shape) != 2:
            raise InputError(f"{self.file} has outlines in a plane, its image {len(shape)} axes; replace one of them")
        mask = np.zeros(shape, np.uint8)
        outlines = [outline for outline in self._outlines() if len(outline) >= _FEWEST_VERTICES]
        if not outlines:
            raise InputError(f"{self.file} holds no outline; replace it, or take out this case")
        for outline in outlines:
            rows, columns = outline[:, 1], outline[:, 0]
            if rows.max() < 0 or columns.max() < 0 or rows.min() > shape[0] or columns.min() > shape[1]:
                raise InputError(
                    f"{self.file} has an outline near column {columns[0]:g}, row {rows[0]:g}, outside of its image of "
                    f"{shape[1]} x {shape[0]} pixels: it belongs to another image; replace it, or take out this case"
                )
            mask[polygon(rows, columns, shape)] = 1
        return mask

    def _outlines(self) -> list[NDArray[np.float64]]:
        """Return the outlines, each (vertices 2) in columns and rows."""
        try:
            root = ElementTree.parse(self.file).getroot()
            return [
                np.array([(float(vertex.attrib["X"]), float(vertex.attrib["Y"])) for vertex in region.iter("Vertex")])
                for region in root.iter("Region")
            ]
        except (OSError, ElementTree.ParseError, KeyError, ValueError) as error:
            raise InputError(f"{self.file} cannot be read ({error!r}); replace it, or take out this case") from error


def read(folder: Path, options: LayoutOptions) -> LayoutData:
    """Read `Tissue Images/*.tif` with `Annotations/*.xml`, and `MoNuSegTestData`, which has both in one folder.

    What is below a folder with a word that begins with "test" in its name is held out. Patient and site are those of
    the TCGA barcodes.

    Raises:
        InputError: If the folder is another tree, a case is incomplete, or an option does not fit.
    """
    no_choice(options, NAME)
    found: dict[str, SourceCase] = {}
    for images, annotations in _image_folders(checked_folder(folder, NAME)):
        test = _says_test(os.path.relpath(images, folder))
        pairs = paired(
            named_files(images, (".tif", ".tiff")),
            named_files(annotations, (".xml",)),
            f"{annotations}/{{case}}.xml",
            f"{images}/{{case}}.tif",
        )
        for name, image, annotation in pairs:
            if name in found:
                raise InputError(f"{image} and {found[name].images[0]} are the same case twice; remove one of them")
            patient, site = _barcode(name)
            found[name] = SourceCase(name, (image,), PolygonMask(annotation), patient, site, test)
    if not found:
        raise missing_tree(folder, f"{_IMAGES}/*.tif with {_ANNOTATIONS}/*.xml", NAME)
    if all(case.test for case in found.values()) and options.test_cases is None:
        raise missing_tree(folder, f"the training images ({_IMAGES}/*.tif with {_ANNOTATIONS}/*.xml)", NAME)
    cases, notes = divided(list(found.values()), options, _PAPER)
    return LayoutData(
        cases,
        ("R", "G", "B"),
        {"background": 0, "nucleus": 1},
        {0: 0, 1: 1},
        reference=URL,
        licence="CC BY-NC-SA 4.0",
        notes=notes,
    )


def _image_folders(folder: Path) -> list[tuple[Path, Path]]:
    """Return each folder of images with that of its annotations."""
    found = []
    for each in (each for level in levels(folder) for each in level):
        if each.name.replace("_", " ").lower() == _IMAGES.lower():
            found.append((each, each.parent / _ANNOTATIONS))
        elif named_files(each, (".tif", ".tiff")) and named_files(each, (".xml",)):
            found.append((each, each))
    return found


def _says_test(path: str) -> bool:
    """Tell whether a word of a path begins with "test": of `TestData` and `test_images`, not of `latest`."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", path)
    return any(word.lower().startswith(("test", "monusegtest")) for word in words)


def _barcode(name: str) -> tuple[str | None, str | None]:
    """Return patient and site of a TCGA barcode: `TCGA-18-5592-01Z-00-DX1` is of patient TCGA-18-5592, site 18."""
    fields = name.split("-")
    if len(fields) < 3 or fields[0] != "TCGA":
        return None, None
    return "-".join(fields[:3]), fields[1]
