"""What is public about known layouts: values of organs, and which folders hold test images."""

import shutil
from pathlib import Path

import pytest

from nnunet_attn.registering.layouts.registry import LAYOUTS, LayoutOptions
from tests.made import layout_trees as trees

# as the makers of the data publish them, in words of their own
BTCV_ORGANS = {
    **{1: "spleen", 2: "right kidney", 3: "left kidney", 4: "gallbladder", 5: "esophagus", 6: "liver", 7: "stomach"},
    **{8: "aorta", 9: "inferior vena cava", 10: "portal and splenic veins", 11: "pancreas"},
    **{12: "right adrenal gland", 13: "left adrenal gland"},
}
AMOS_ORGANS = {
    **{1: "spleen", 2: "right kidney", 3: "left kidney", 4: "gallbladder", 5: "esophagus", 6: "liver", 7: "stomach"},
    **{8: "aorta", 9: "postcava", 10: "pancreas", 11: "right adrenal gland", 12: "left adrenal gland"},
    **{13: "duodenum", 14: "bladder", 15: "prostate uterus"},
}


@pytest.mark.parametrize(("layout", "organs"), [("btcv", BTCV_ORGANS), ("amos22", AMOS_ORGANS)])
def test_values_of_organs_are_those_that_the_makers_publish(
    layout: str, organs: dict[int, str], tmp_path: Path
) -> None:
    data = LAYOUTS[layout].read(trees.TREES[layout](tmp_path), LayoutOptions())
    wanted = {"background": 0, **{name.replace(" ", "_"): value for value, name in organs.items()}}
    assert (data.labels, data.value_map) == (wanted, {value: value for value in range(len(organs) + 1)})


@pytest.mark.parametrize(
    ("folder", "test"),
    [
        *((name, False) for name in ("latest", "contest2018", "Contest 2018", "greatest_images", "Training")),
        *((name, True) for name in ("MoNuSegTestData", "monusegtestdata", "test", "Testing_Set", "TEST", "my-test1")),
    ],
)
def test_monuseg_takes_words_of_folders_for_the_test_images(folder: str, test: bool, tmp_path: Path) -> None:
    trees.monuseg(tmp_path, ["TCGA-18-5592-01Z-00-DX1"])
    trees.monuseg(tmp_path / "other", [], ["TCGA-2Z-A9J9-01A-01-TS1"])
    (tmp_path / "other/MoNuSegTestData/MoNuSegTestData").rename(tmp_path / folder)
    shutil.rmtree(tmp_path / "other")
    found = {case.case: case.test for case in LAYOUTS["monuseg"].read(tmp_path, LayoutOptions()).cases}
    assert found == {"TCGA-18-5592-01Z-00-DX1": False, "TCGA-2Z-A9J9-01A-01-TS1": test}
