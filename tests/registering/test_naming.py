from pathlib import Path

from nnunet_attn.registering.naming import is_image_name, legal_name, stem
from nnunet_attn.registering.sources import from_folders
from tests.made.loose import label, volume, write

ONE, TWO = "Caf\u00e9", "Cafe\u0301"  # an accented letter as one character, and as two


def test_accents_are_one_letter_however_they_are_stored() -> None:
    assert legal_name(TWO) == legal_name(ONE) == ONE
    assert stem(f"{TWO}.nii.gz") == stem(f"{ONE}.nii.gz") == ONE
    assert is_image_name(f"{TWO}.png") and not is_image_name(TWO)


def test_a_label_is_found_whose_name_stores_accents_otherwise(tmp_path: Path) -> None:
    write(tmp_path / "images" / f"{TWO}.nii.gz", volume())
    write(tmp_path / "labels" / f"{ONE}_seg.nii.gz", label())
    (case,) = from_folders([tmp_path / "images"], tmp_path / "labels").cases
    assert case.case == ONE and case.label is not None
