"""Which files the new data set is made of, and which of nnU-Net's classes reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_attn.errors import InputError
from nnunet_attn.registering.inspecting import CaseFacts, ImageFacts
from nnunet_attn.registering.model import SourceCase
from nnunet_attn.registering.reading import NATURAL_FORMATS, ending_of

NATURAL_READER, VOLUME_READER, STACK_READER = "NaturalImage2DIO", "SimpleITKIO", "Tiff3DIO"

# Ending -> nnU-Net's reader. `.nii` would be read by NibabelIO by default, which reads no 2D images and takes the place
# in space from other fields of the header than ITK, by which the geometry is checked here.
_READERS = {
    2: {
        ".nii.gz": VOLUME_READER,
        ".nii": VOLUME_READER,
        ".mha": VOLUME_READER,
        ".nrrd": VOLUME_READER,
        ".png": NATURAL_READER,
        ".bmp": NATURAL_READER,
        ".tif": NATURAL_READER,
    },
    3: {
        ".nii.gz": VOLUME_READER,
        ".nii": VOLUME_READER,
        ".mha": VOLUME_READER,
        ".nrrd": VOLUME_READER,
        ".tif": STACK_READER,
        ".tiff": STACK_READER,
    },
}
_CHOSEN_BY_NNUNET = {".nii.gz", ".mha", ".nrrd", ".png", ".bmp"}
# Bytes that a voxel of an image or a label takes up in a compressed file, of those in memory: rough, for an estimate.
_COMPRESSED, _COMPRESSED_LABEL = 0.6, 0.05
_UNCOMPRESSED = (".nii", ".bmp")


@dataclass(frozen=True)
class Form:
    """How the new data set's files look.

    Args:
        dims: 2 or 3.
        ending: Of all files.
        reader: nnU-Net's class.
    """

    dims: int
    ending: str
    reader: str

    @property
    def told(self) -> bool:
        """Whether dataset.json has to name the reader, since nnU-Net would choose another, or try others first."""
        return not (self.ending in _CHOSEN_BY_NNUNET or (self.ending == ".tif" and self.reader == NATURAL_READER))

    def ending_of(self, path: Path) -> str | None:
        """Return the ending that a source file would have in this form; `.tiff` and `.tif` are the same."""
        return _same(ending_of(path), self.dims)


def choose_form(asked: str | None, cases: Sequence[SourceCase], facts: Sequence[CaseFacts]) -> Form:
    """Return the form asked for, or that of the images if all share one that nnU-Net reads, or a usual one.

    Args:
        asked: Ending, None to choose.
        cases: All cases.
        facts: What was found in them; all have the same number of axes.
    Raises:
        InputError: If nnU-Net does not read this ending, or its format cannot hold the images.
    """
    dims = len(facts[0].images[0].shape)
    readers = _READERS[dims]
    images = [image for case in facts for image in case.images]
    if asked is not None:
        ending = asked.lower() if asked.startswith(".") else f".{asked.lower()}"
        if ending not in readers:
            raise InputError(
                f"file ending {asked!r}: for {dims}D images nnU-Net reads {' '.join(readers)}; give one of them"
            )
        _check_types(ending, facts)
        return Form(dims, ending, readers[ending])
    endings = {None if path.is_dir() else _same(ending_of(path), dims) for case in cases for path in case.images}
    shared = next(iter(endings)) if len(endings) == 1 else None
    if shared in readers:
        ending = shared
    elif dims == 2 and endings <= set(NATURAL_FORMATS):
        ending = ".png" if all(_fits(".png", image) for image in images) else ".tif"
    else:
        ending = ".nii.gz"
    return Form(dims, ending, readers[ending])


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; 0 where one may not look."""
    try:
        files = path.iterdir() if path.is_dir() else (path,)
        return sum(file.stat().st_size for file in files if file.is_file())
    except OSError:  # told of when it is read
        return 0


def bytes_of_image(image: ImageFacts, ending: str) -> int:
    """Estimate the bytes of an image that is written anew."""
    whole = int(np.prod(image.shape)) * image.channels * np.dtype(image.dtype).itemsize
    return int(whole * (1 if ending in _UNCOMPRESSED else _COMPRESSED))


def bytes_of_label(image: ImageFacts, ending: str) -> int:
    """Estimate the bytes of a label that is written anew."""
    return int(np.prod(image.shape) * (1 if ending in _UNCOMPRESSED else _COMPRESSED_LABEL))


def _same(ending: str | None, dims: int) -> str | None:
    return ".tif" if ending == ".tiff" and dims == 2 else ending


def _check_types(ending: str, facts: Sequence[CaseFacts]) -> None:
    for case in facts:
        for image in case.images:
            if not _fits(ending, image):
                raise InputError(
                    f"{case.case}: values of the type {image.dtype} cannot be held by {ending}; choose another file "
                    "ending, such as .tif in 2D or .nii.gz"
                )


def _fits(ending: str, image: ImageFacts) -> bool:
    if ending == ".bmp":
        return image.dtype in ("bool", "uint8")
    return ending != ".png" or image.dtype in ("bool", "uint8", "uint16")
