from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from nnunet_attn.errors import InputError
from nnunet_attn.registering.labels import LabelScheme, check_labels, label_scheme, remapped, values_of

ORGANS = {"background": 0, "liver": 1, "spleen": 2}
TUMOUR = {"background": 0, "whole": (1, 2), "core": (2,)}


def _scheme(
    found: Sequence[int],
    labels: Mapping[str, Any] | None = None,
    value_map: Mapping[int, int] | None = None,
    order: Sequence[int] | None = None,
    ignore: int | None = None,
) -> LabelScheme:
    return label_scheme({value: ["a", "b"] for value in found}, labels, value_map, order, ignore)


def test_labels_as_nnunet_has_them() -> None:
    assert check_labels({**ORGANS, "ignore": 3}, None) == {**ORGANS, "ignore": 3}
    assert check_labels(TUMOUR, (1, 2)) == {"background": 0, "whole": [1, 2], "core": 2}


@pytest.mark.parametrize(
    ("labels", "order", "message"),
    [
        ({"liver": 1}, None, 'labels need "background": 0; got None'),
        ({"background": 1, "liver": 2}, None, 'labels need "background": 0; got 1'),
        ({"background": 0}, None, "labels name nothing but the background"),
        ({"background": 0, "liver": 2}, None, "label values 0, 2 have gaps; nnU-Net wants 0, 1, 2"),
        ({"background": 0, "liver": "1"}, None, "label 'liver' is '1'; give an integer from 0"),
        ({"background": 0, "liver": -1}, None, "label 'liver' is -1"),
        ({"background": 0, "liver": ()}, None, r"label 'liver' is \(\)"),
        ({"background": 0, "liver": 1, "hepar": 1}, None, "label value 1 has two names"),
        (
            {"background": 0, "liver": 1, "ignore": 5},
            None,
            '"ignore" is 5; nnU-Net wants it to be the highest value, 2',
        ),
        (TUMOUR, None, "label 'whole' is a region, so nnU-Net needs regions_class_order: one value for each of whole"),
        (TUMOUR, (1,), "regions_class_order 1 does not fit"),
        (TUMOUR, (1, 5), "regions_class_order 1, 5 does not fit"),
        (ORGANS, (1, 2), "regions_class_order is given, but no label is a region"),
        ({"background": 0, "liver": 0, "spleen": 1}, None, "label 'liver' holds 0, which is the background"),
        ({"background": 0, "all": (0, 1), "core": 1}, (1, 1), "label 'all' holds 0, which is the background"),
        ({"background": 0, "a": (1, 2), "b": 2}, (2, 1), "order 2, 1: 1 stands for 'b', which has 2; give one value"),
        ({"background": 0, "a": (1, 2), "b": (1, 2)}, (1, 1), "order 1, 1: give each region a value of its own"),
        # the small region first: it is painted over
        ({"background": 0, "core": 2, "whole": (1, 2)}, (2, 1), "the value 2, which is core and whole, .* as 1, which"),
        # 3 is in both regions, and no value is left to say so
        ({"background": 0, "a": (1, 3), "b": (2, 3)}, (1, 2), "the value 3, which is a and b, would be written as 2,"),
    ],
)
def test_labels_that_nnunet_would_refuse(labels: Mapping[str, Any], order: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_labels(labels, order)


def test_orders_by_which_regions_come_out_as_they_went_in() -> None:
    overlapping = {"background": 0, "a": (1, 3), "b": (2, 3), "both": 3}
    assert check_labels(overlapping, (1, 2, 3))["b"] == [2, 3]
    # 2 and 3 are the same regions, so that 3 may come out as 2
    assert check_labels({"background": 0, "whole": (1, 2, 3), "core": (2, 3)}, (1, 2))["core"] == [2, 3]
    assert check_labels({"background": 0, "liver": (1, 1)}, None)["liver"] == 1


def test_a_mask_of_0_and_255_becomes_0_and_1() -> None:
    scheme = _scheme([0, 255])
    assert scheme.value_map == {0: 0, 255: 1}
    assert scheme.labels == {"background": 0, "foreground": 1}
    assert not scheme.warnings


def test_gaps_are_closed_in_order() -> None:
    scheme = _scheme([0, 7, 3, 200])
    assert scheme.value_map == {0: 0, 3: 1, 7: 2, 200: 3}
    assert scheme.labels == {"background": 0, "label_1": 1, "label_2": 2, "label_3": 3}


def test_given_labels_keep_the_values_they_know() -> None:
    assert _scheme([0, 2], ORGANS).value_map == {0: 0, 2: 2}
    assert _scheme([0, 2], ORGANS).warnings == ("label 'liver' (1) is in no case",)
    assert _scheme([0, 100, 200], ORGANS).value_map == {0: 0, 100: 1, 200: 2}


def test_a_stray_value_becomes_no_label_by_its_place_in_the_order() -> None:
    found = {0: list("abcdef"), 1: list("abcdef"), 7: ["c"]}
    two = {"background": 0, "liver": 1, "tumour": 2}
    with pytest.raises(InputError, match=r"no label has: 7 in c; .* name every value by --map, such as --map=7=0"):
        label_scheme(found, two, None, None, None)
    with pytest.raises(InputError, match=r"no label has: 3 in a, b"):
        _scheme([0, 2, 3], two)
    # where none of them is a label's value, few cases are told
    (warning,) = label_scheme({0: list("abc"), 50: list("abc"), 70: ["c"]}, two, None, None, None).warnings
    assert "70 in 1 (c)" in warning
    # and so they are where nobody named the labels
    (warning,) = label_scheme({0: list("abc"), 1: list("abc"), 2: ["c"]}, None, None, None, None).warnings
    assert "2 in 1 (c)" in warning
    assert not label_scheme({0: list("abc"), 1: list("abc"), 2: ["c"]}, two, None, None, None).warnings


def test_scribbles_ignore_the_value_0() -> None:
    one = {"background": 0, "liver": 1}
    scheme = _scheme([0, 1, 2], one, {1: 0, 2: 1}, None, 0)
    assert (scheme.value_map, scheme.warnings) == ({0: 2, 1: 0, 2: 1}, ())
    assert scheme.labels == {"background": 0, "liver": 1, "ignore": 2}
    (warning,) = _scheme([0, 1], one, None, None, 0).warnings
    assert "background (0) is in no case; if the value 0 is background, leave --ignore out" in warning


def test_a_value_without_label_is_refused_with_its_cases() -> None:
    found = {0: ["a", "b", "c"], 1: ["a", "b"], 2: ["a"], 7: ["c"]}
    with pytest.raises(InputError, match="label values that no label has: 7 in c; correct these files"):
        label_scheme(found, ORGANS, None, None, None)
    with pytest.raises(InputError, match="neither the labels nor the value map name: 2 in a; 7 in c"):
        label_scheme(found, ORGANS, {1: 1}, None, None)
    many = {0: ["a"], **{value: [f"case_{n}" for n in range(8)] for value in range(1, 15)}}
    with pytest.raises(InputError, match=r"case_4 and 3 more; .*; and 2 more values"):
        label_scheme(many, ORGANS, None, None, None)


def test_a_value_map_may_join_values() -> None:
    scheme = _scheme([0, 1, 2, 127, 255], ORGANS, {1: 1, 2: 2, 127: 1, 255: 2})
    assert scheme.value_map == {0: 0, 1: 1, 2: 2, 127: 1, 255: 2}
    assert _scheme([0, 5, 9], None, {5: 1, 9: 1}).labels == {"background": 0, "foreground": 1}


def test_a_value_map_holds_what_was_found_only() -> None:
    assert _scheme([0, 3], None, {value: 1 for value in range(1, 256)}).value_map == {0: 0, 3: 1}


def test_a_map_to_a_value_without_label_is_refused() -> None:
    with pytest.raises(InputError, match="the value map leads to 3, which no label has"):
        _scheme([0, 1], ORGANS, {1: 3})
    with pytest.raises(InputError, match="label values 0, 2 have gaps"):
        _scheme([0, 1], None, {1: 2})


def test_the_ignored_value_becomes_the_highest_label() -> None:
    scheme = _scheme([0, 1, 255], None, None, None, 255)
    assert scheme.labels == {"background": 0, "foreground": 1, "ignore": 2}
    assert scheme.value_map == {0: 0, 1: 1, 255: 2}
    assert _scheme([-1, 0, 1, 2], ORGANS, None, None, -1).value_map == {-1: 3, 0: 0, 1: 1, 2: 2}
    assert _scheme([0, 1, 9], {**ORGANS, "ignore": 3}, None, None, 9).value_map == {0: 0, 1: 1, 9: 3}
    assert _scheme([0, 9], ORGANS, {9: 1}, None, 255).labels["ignore"] == 3
    with pytest.raises(InputError, match="value 9 is both ignored and mapped to 1"):
        _scheme([0, 9], ORGANS, {9: 1}, None, 9)


def test_regions() -> None:
    scheme = _scheme(
        [0, 1, 2, 4],
        {"background": 0, "whole": (1, 2, 3), "core": (2, 3), "enhancing": 3},
        {1: 1, 2: 2, 4: 3},
        (1, 2, 3),
    )
    assert scheme.value_map == {0: 0, 1: 1, 2: 2, 4: 3}
    assert scheme.labels == {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    assert scheme.regions_class_order == [1, 2, 3]
    assert _scheme([0, 1, 2, 9], TUMOUR, None, (1, 2), 9).labels["ignore"] == 3


def test_values_below_zero_are_not_guessed() -> None:
    with pytest.raises(
        InputError, match=r"below 0, whose meaning cannot be guessed: -1 in a, b; .*--map=-1=0, or one by --ignore"
    ):
        _scheme([-1, 0, 1])


def test_labels_that_may_be_images() -> None:
    with pytest.raises(InputError, match="the labels have 300 different values, from 1 to 300; they may be images"):
        _scheme(range(301))


def test_labels_without_foreground() -> None:
    with pytest.raises(InputError, match="no foreground: all are 0 everywhere"):
        _scheme([0])


def test_values_that_few_cases_have_are_told() -> None:
    found = {0: ["a", "b", "c"], 127: ["c"], 255: ["a", "b"]}
    (warning,) = label_scheme(found, None, None, None, None).warnings
    assert "few of 3 cases have get a number of their own: 127 in 1 (c)" in warning
    assert "map the values yourself" in warning


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int64])
def test_values_of_a_label_map(dtype: type) -> None:
    array = np.zeros((4, 5), dtype)
    array[1], array[3, 2] = 7, 100
    assert values_of(array) == (0, 7, 100)
    if np.issubdtype(dtype, np.signedinteger):
        array[0, 0] = -1
        assert values_of(array) == (-1, 0, 7, 100)


def test_remapping() -> None:
    array = np.array([[0, 255], [7, -1]], np.int16)
    made = remapped(array, {0: 0, 255: 1, 7: 2, -1: 3})
    np.testing.assert_array_equal(made, [[0, 1], [2, 3]])
    assert made.dtype == np.uint8
    assert remapped(array, {0: 0, 255: 1, 7: 2, -1: 300}).dtype == np.uint16
    with pytest.raises(KeyError):
        remapped(array, {0: 0})
