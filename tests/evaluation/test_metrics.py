"""The metrics against arithmetic by hand, nnU-Net's own, and two libraries."""

import math
from typing import Any

import numpy as np
import pytest
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from numpy.typing import NDArray

from nnunet_attn.benchmark.evaluation import whole_volume_metrics
from nnunet_attn.benchmark.evaluation_agreement import (
    EXACT,
    agreement,
    compared_blob,
    library_metrics,
    simpleitk_metrics,
)
from nnunet_attn.errors import InputError
from nnunet_attn.evaluation import metrics as module
from nnunet_attn.evaluation.metrics import case_metrics
from nnunet_attn.evaluation.results import METRICS, OVERLAP_METRICS, SURFACE_METRICS

ONE = {"organ": (1,)}


def block(shape: tuple[int, ...], *bounds: tuple[int, int]) -> NDArray[np.uint8]:
    found = np.zeros(shape, np.uint8)
    found[tuple(slice(*each) for each in bounds)] = 1
    return found


def measured(prediction: NDArray, reference: NDArray, spacing: tuple[float, ...], **options: Any) -> dict[str, float]:
    return case_metrics(prediction, reference, spacing, ONE, **options)["organ"]


def test_overlap_and_volumes_of_two_blocks() -> None:
    prediction = block((6, 7, 8), (1, 3), (1, 4), (1, 5))  # 2 x 3 x 4 = 24 voxels
    reference = block((6, 7, 8), (1, 3), (1, 4), (3, 5))  # the half of them that lies behind: 12
    found = measured(prediction, reference, (3.0, 2.0, 0.5))  # 3 mm^3 a voxel
    assert found["dice"] == 2 * 12 / (24 + 12)
    assert found["iou"] == 12 / 24
    assert found["precision"] == 12 / 24
    assert found["recall"] == 1
    assert found["volume_difference_mm3"] == (24 - 12) * 3
    assert found["relative_volume_difference"] == (24 - 12) / 12
    swapped = measured(reference, prediction, (3.0, 2.0, 0.5))
    assert swapped["volume_difference_mm3"] == -36 and swapped["relative_volume_difference"] == -0.5
    assert swapped["precision"] == 1 and swapped["recall"] == 0.5


@pytest.mark.parametrize("surface", ["area", "erosion"])
def test_single_voxels_at_a_distance(surface: str) -> None:
    prediction, reference = block((4, 5, 9), (1, 2), (3, 4), (0, 1)), block((4, 5, 9), (1, 2), (3, 4), (5, 6))
    found = measured(prediction, reference, (3.0, 2.0, 0.5), surface=surface, tolerance_mm=2.0)
    assert found["dice"] == found["iou"] == found["precision"] == found["recall"] == 0
    assert found["volume_difference_mm3"] == 0
    if surface == "erosion":  # from voxel to voxel 5 steps of 0.5 mm
        assert found["hd95_mm"] == found["assd_mm"] == 2.5 and found["nsd"] == 0
    else:  # of eight corners alike, four look at the other voxel over 4 steps, four over 5
        assert found["hd95_mm"] == 2.5 and found["nsd"] == 0.5
        assert found["assd_mm"] == pytest.approx((4 * 2.0 + 4 * 2.5) / 8)


def test_a_single_voxel_that_is_met() -> None:
    voxel = block((1, 1, 1), (0, 1), (0, 1), (0, 1))  # touches all borders
    for surface in ("area", "erosion"):
        found = measured(voxel, voxel, (3.0, 2.0, 0.5), surface=surface, tolerance_mm=0.0)
        assert found == dict.fromkeys((*OVERLAP_METRICS, "nsd"), 1.0) | dict.fromkeys(
            ("hd95_mm", "assd_mm", "volume_difference_mm3", "relative_volume_difference"), 0.0
        )


# A prediction of all 3 x 4 pixels, a reference of the last two rows; rows are 2 mm, columns 1 mm apart. Beyond the
# image is background, so the image's border is surface.
ALL, LOWER = block((3, 4), (0, 3), (0, 4)), block((3, 4), (1, 3), (0, 4))


def test_touching_the_borders_in_2d_by_erosion() -> None:
    found = measured(ALL, LOWER, (2.0, 1.0), surface="erosion", tolerance_mm=1.0)
    # An erosion leaves the two inner pixels of the prediction, so its surface has 10: the 4 of the first row are 2 mm
    # from the reference's, the others are 0. It leaves nothing of the reference, so its surface has 8: the two in the
    # middle of row 1 are 1 mm from a border column of the prediction, the others 0.
    assert found["assd_mm"] == pytest.approx((4 * 2 + 2 * 1) / (10 + 8))
    assert found["nsd"] == pytest.approx((6 + 8) / (10 + 8))
    # 95 % of the way along 10 sorted values is between the 9th and the 10th, both 2; of 8 values, between 1 and 1
    assert found["hd95_mm"] == 2
    assert found["dice"] == 2 * 8 / (12 + 8)
    assert found["volume_difference_mm3"] == 4 * 2  # an area: mm^2


def test_touching_the_borders_in_2d_by_area() -> None:
    # The outline lies on the corners of pixels: 5 along a row, 4 (3) along a column. A corner of the rectangle has half
    # a pixel's diagonal of it, another point of a horizontal side 1 mm, of a vertical one 2 mm.
    corner = math.sqrt(2**2 + 1**2) / 2
    prediction, reference = 4 * corner + 2 * 3 * 1 + 2 * 2 * 2, 4 * corner + 2 * 3 * 1 + 2 * 1 * 2
    # The first row of the prediction's outline is 2 mm from the reference's. The first row of the reference's has three
    # points inside the prediction: 1, 2 and 1 mm from its vertical sides (the middle one also from the row above).
    far_prediction, far_reference = 2 * corner + 3 * 1, 1
    found = measured(ALL, LOWER, (2.0, 1.0), tolerance_mm=1.0)
    whole = prediction + reference
    assert found["assd_mm"] == pytest.approx((far_prediction * 2 + 1 * 1 + 1 * 2 + 1 * 1) / whole)
    assert found["nsd"] == pytest.approx((whole - far_prediction - far_reference) / whole)
    assert far_prediction / prediction > 0.05 and found["hd95_mm"] == 2


def test_hd95_is_the_larger_one_of_the_two_directions() -> None:
    # a long line, and the same with a voxel apart from it: 1 of 42 voxels is 10 mm away, 1 of 41 is less than 5 %
    shape, spacing = (12, 41), (1.0, 1.0)
    line = block(shape, (0, 1), (0, 41))
    with_one = line | block(shape, (10, 11), (20, 21))
    assert measured(with_one, line, spacing, surface="erosion")["hd95_mm"] == 0
    assert measured(with_one, line, spacing, surface="erosion")["assd_mm"] == pytest.approx(10 / (42 + 41))
    # three of 44: 95 % of the way along 44 sorted values is 0.85 of the way from the 41st to the 42nd: 0 and 10
    with_three = line | block(shape, (10, 11), (19, 22))
    for pair in ((with_three, line), (line, with_three)):
        assert measured(*pair, spacing, surface="erosion")["hd95_mm"] == pytest.approx(8.5)


EMPTY, FULL = np.zeros((3, 4, 5), np.uint8), block((3, 4, 5), (0, 2), (0, 2), (0, 2))


@pytest.mark.parametrize("surface", ["area", "erosion"])
def test_empty_masks(surface: str) -> None:
    assert all(map(math.isnan, measured(EMPTY, EMPTY, (1, 1, 1), surface=surface).values()))
    missed = measured(EMPTY, FULL, (1, 2, 3), surface=surface)
    zeros = dict.fromkeys((*OVERLAP_METRICS, "nsd"), 0.0)
    infinite = dict.fromkeys(("hd95_mm", "assd_mm"), math.inf)
    volume = {"volume_difference_mm3": -8 * 6.0, "relative_volume_difference": -1.0}
    assert missed == zeros | infinite | volume
    invented = measured(FULL, EMPTY, (1, 2, 3), surface=surface)
    assert invented == zeros | infinite | {"volume_difference_mm3": 48.0, "relative_volume_difference": math.inf}


def test_regions_are_unions_whose_inner_borders_do_not_count() -> None:
    reference = np.zeros((4, 6, 6), np.uint8)
    reference[1:3, 1:5, 1:3], reference[1:3, 1:5, 3:5] = 1, 4
    prediction = np.where(reference > 0, 1, 0)  # the whole region, with one of its labels
    classes = {"whole": (1, 4), "part": (1,), "other part": (4,), "absent": (2, 3)}
    found = case_metrics(prediction, reference, (1, 1, 1), classes)
    assert found["whole"]["dice"] == found["whole"]["nsd"] == 1 and found["whole"]["hd95_mm"] == 0
    assert found["part"]["dice"] == 2 * 16 / (32 + 16) and found["part"]["precision"] == 0.5
    assert found["other part"]["recall"] == 0 and math.isinf(found["other part"]["assd_mm"])
    assert math.isnan(found["absent"]["dice"])
    alone = case_metrics(prediction > 0, reference > 0, (1, 1, 1), ONE)["organ"]
    assert found["whole"] == alone


def random_maps(seed: int, shape: tuple[int, ...] = (5, 9, 8), labels: int = 4) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    reference = rng.integers(0, labels + 1, shape).astype(np.uint8)
    prediction = np.where(rng.random(shape) < 0.3, rng.integers(0, labels + 1, shape), reference).astype(np.uint8)
    return [prediction, reference]


class ArrayReader:
    """Stands for nnU-Net's reader of files; the names of the files are the arrays."""

    def read_seg(self, file: Any) -> tuple[NDArray, dict]:
        return file[None], {}


@pytest.mark.parametrize("ignore", [None, 4])
@pytest.mark.parametrize("seed", range(4))
def test_dice_and_iou_are_nnunets(seed: int, ignore: int | None) -> None:
    prediction, reference = random_maps(seed)
    classes: dict[str, tuple[int, ...]] = {"1": (1,), "2": (2,), "(1, 3)": (1, 3), "(1, 2, 3)": (1, 2, 3), "7": (7,)}
    keys = [labels[0] if len(labels) == 1 else labels for labels in classes.values()]
    theirs = compute_metrics(reference, prediction, ArrayReader(), keys, ignore)["metrics"]  # type: ignore[arg-type]
    found = case_metrics(prediction, reference, (1, 1, 1), classes, ("dice", "iou", "precision"), ignore=ignore)
    for key, (name, own) in zip(keys, found.items(), strict=True):
        if name == "7":
            assert math.isnan(own["dice"]) and math.isnan(theirs[key]["Dice"])
            continue
        assert own["dice"] == theirs[key]["Dice"] and own["iou"] == theirs[key]["IoU"]
        assert own["precision"] == theirs[key]["TP"] / theirs[key]["n_pred"]


def test_ignored_voxels_are_background_in_both_masks() -> None:
    prediction, reference = random_maps(5)
    classes = {"a": (1,), "b": (2, 3)}
    found = case_metrics(prediction, reference, (1, 2, 3), classes, ignore=4)
    kept = reference != 4
    assert found == case_metrics(prediction * kept, reference * kept, (1, 2, 3), classes)
    assert found != case_metrics(prediction, reference, (1, 2, 3), classes)


@pytest.mark.parametrize("surface", ["area", "erosion"])
def test_boxes_slabs_and_number_types_change_nothing(surface: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prediction, reference = random_maps(6)
    classes, spacing = {"a": (1,), "b": (2, 3), "c": (4,)}, (2.5, 0.7, 1.1)
    found = case_metrics(prediction, reference, spacing, classes, surface=surface)
    wide = [np.pad(labels, ((3, 4), (5, 0), (0, 7))) for labels in (prediction, reference)]
    assert case_metrics(wide[0], wide[1], spacing, classes, surface=surface) == found
    assert (
        case_metrics(prediction.astype(np.float32), reference.astype(np.int64), spacing, classes, surface=surface)
        == found
    )
    monkeypatch.setattr(module, "_SLAB_VOXELS", 1)
    assert case_metrics(prediction, reference, spacing, classes, surface=surface) == found
    turned = [labels.transpose(2, 0, 1) for labels in (prediction, reference)]
    again = case_metrics(turned[0], turned[1], (1.1, 2.5, 0.7), classes, surface=surface)
    for name in classes:
        assert again[name] == pytest.approx(found[name], rel=1e-12)


def test_values_of_no_class_are_background() -> None:
    prediction, reference = (
        block((4, 4), (0, 2), (0, 2)).astype(np.int64),
        block((4, 4), (0, 2), (0, 2)).astype(np.int64),
    )
    prediction[3, 3], prediction[3, 2], reference[3, 1] = -1, 2, 10**12
    assert measured(prediction, reference, (1, 1))["dice"] == 1


@pytest.mark.parametrize("seed", range(30))
def test_random_blobs_against_two_libraries(seed: int) -> None:
    blob = compared_blob(seed)
    assert 0.5 < blob["area"]["dice"] < 1 and blob["erosion"]["assd_mm"] > 0
    found = agreement([blob])
    assert list(found["exact"]["simpleitk"]) == list(METRICS)
    for metric, difference in found["exact"]["simpleitk"].items():
        assert difference < (EXACT if metric in SURFACE_METRICS else 1e-12), metric
    assert max(found["exact"]["library"].values()) < 1e-12
    assert max(found["in_voxel_diagonals"].values()) <= 1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(7, 9, 8), (15, 20)])
def test_scattered_voxels_against_two_libraries(shape: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    spacing = tuple(float(step) for step in rng.uniform(0.3, 4, len(shape)))
    prediction, reference = (rng.random(shape) < share for share in (0.3, 0.1))
    area = measured(prediction, reference, spacing)
    erosion = measured(prediction, reference, spacing, surface="erosion")
    for metric, value in library_metrics(prediction, reference, spacing).items():
        assert area[metric] == pytest.approx(value, rel=1e-12), metric
    for metric, value in whole_volume_metrics(prediction, reference, spacing).items():
        assert erosion[metric] == pytest.approx(value, rel=1e-12), metric
    for metric, value in simpleitk_metrics(prediction, reference, spacing).items():
        assert erosion[metric] == pytest.approx(value, rel=EXACT, abs=1e-12), metric


def test_tolerances_by_class_and_only_the_metrics_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    prediction, reference = random_maps(8)
    classes = {"a": (1,), "b": (2,)}
    found = case_metrics(prediction, reference, (1, 1, 1), classes, ("nsd",), {"a": 0.0, "b": 1.0, "more": 2.0})
    assert found["a"] == {"nsd": case_metrics(prediction, reference, (1, 1, 1), classes, ("nsd",), 0.0)["a"]["nsd"]}
    assert found["b"] == {"nsd": case_metrics(prediction, reference, (1, 1, 1), classes, ("nsd",), 1.0)["b"]["nsd"]}
    monkeypatch.setattr(module, "surface_distances", None)  # not needed for the others
    found = case_metrics(prediction, reference, (1, 1, 1), classes, ("recall", "volume_difference_mm3"))
    assert all(list(values) == ["recall", "volume_difference_mm3"] for values in found.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": np.zeros((3, 4, 4), int)}, r"prediction is \(3, 4, 5\), the reference \(3, 4, 4\)"),
        ({"prediction": np.zeros(5, int), "reference": np.zeros(5, int)}, r"\(y x\) or \(z y x\)"),
        ({"prediction": np.full((3, 4, 5), 0.5)}, "holds 0.5; labels are whole numbers"),
        ({"reference": np.full((3, 4, 5), np.nan)}, "holds nan"),
        ({"reference": np.zeros((3, 4, 5), complex)}, "holds complex128"),
        ({"spacing_mm": (1, 1)}, "3 positive lengths"),
        ({"spacing_mm": (1, 0, 1)}, "3 positive lengths"),
        ({"spacing_mm": (1, math.inf, 1)}, "3 positive lengths"),
        ({"classes": {"all": (0, 1)}}, "class 'all' has the labels"),
        ({"classes": {"none": ()}}, "class 'none' has the labels"),
        ({"classes": {"huge": (3_000_000_000,)}}, r"above 0 \(the background\), up to 16777215, are needed"),
        ({"classes": {"lost": (1, 3)}, "ignore": 3}, "without 3, which is ignored"),
        ({"metrics": ("dice", "hausdorff")}, "unknown metric 'hausdorff'; there are dice"),
        ({"surface": "voxel"}, "unknown surface 'voxel'; there are area, erosion"),
        ({"tolerance_mm": {"kidney": 1.0}}, "no tolerance in mm for the class 'organ'"),
        ({"tolerance_mm": -1.0}, "tolerance -1 mm of the class 'organ'"),
        ({"tolerance_mm": math.nan}, "tolerance nan mm"),
    ],
)
def test_what_is_refused(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"prediction": EMPTY, "reference": FULL, "spacing_mm": (1, 1, 1), "classes": ONE}
    with pytest.raises(InputError, match=message):
        case_metrics(**(given | change))
