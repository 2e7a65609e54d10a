"""What of a study is compared with what."""

import json
from pathlib import Path
from typing import Any

import pytest

from nnunet_attn.datasets.splits import add_reduced_splits
from nnunet_attn.study.groups import groups, models
from nnunet_attn.study.matrix import runs
from nnunet_attn.study.model import Study

NAME = "Dataset004_Made"
PLAIN, GASA = "nnUNetTrainerPlain", "nnUNetTrainerGASA"


def study(**fields: Any) -> Study:
    """Two rows, two folds and two seeds unless it is said otherwise."""
    given = {"name": "made", "datasets": ("4",), "rows": (PLAIN, GASA), "folds": (3, 0), "seeds": (1, 0)}
    return Study.model_validate({**given, **fields})


@pytest.mark.usefixtures("preprocessed")
def test_a_model_is_all_folds_of_a_row_and_seed() -> None:
    made = study()
    found = models(made)
    assert [(each.row, each.seed, each.folds) for each in found] == [
        (PLAIN, 1, (0, 3)),
        (PLAIN, 0, (0, 3)),
        (GASA, 1, (0, 3)),
        (GASA, 0, (0, 3)),
    ]
    folders = {run.fold_folder for run in runs(made)}
    assert {model.fold_folder(fold) for model in found for fold in model.folds} == folders
    assert found[0].folder == next(iter(runs(made))).model_folder
    assert [each.text for each in found[:2]] == [f"{PLAIN}, seed 1", f"{PLAIN}, seed 0"]
    assert models(study(seeds=(), rows=(GASA,)))[0].text == GASA


@pytest.mark.usefixtures("preprocessed")
def test_a_group_has_all_rows_and_seeds() -> None:
    (group,) = groups(study(reference=GASA))
    assert (group.name, group.configuration, group.labels, group.test) == (
        f"{NAME}__3d_fullres",
        "3d_fullres",
        None,
        False,
    )
    assert group.rows == (PLAIN, GASA) and group.reference == GASA
    assert [model.seed for model in group.models_of(PLAIN)] == [1, 0]
    assert group.title == f"{NAME}, 3d_fullres, cross-validation"


@pytest.mark.usefixtures("preprocessed")
def test_each_configuration_has_a_group_which_rows_with_their_own_join() -> None:
    own = {"trainer": GASA, "name": "flat", "configuration": "2d"}
    found = groups(study(rows=(PLAIN, own), configurations=("3d_fullres", "2d"), seeds=(), test_set=True))
    assert [(each.name, [(m.row, m.configuration) for m in each.models]) for each in found] == [
        (f"{NAME}__3d_fullres", [(PLAIN, "3d_fullres"), ("flat", "2d")]),
        (f"{NAME}__3d_fullres__test", [(PLAIN, "3d_fullres"), ("flat", "2d")]),
        (f"{NAME}__2d", [(PLAIN, "2d"), ("flat", "2d")]),
        (f"{NAME}__2d__test", [(PLAIN, "2d"), ("flat", "2d")]),
    ]
    assert [each.test for each in found] == [False, True, False, True]
    assert found[1].title == f"{NAME}, 3d_fullres, test set"
    # a row can be the whole group, and then is its own reference
    both = ({**own, "name": "one"}, {**own, "name": "two", "configuration": "3d_fullres"})
    (group,) = groups(study(rows=both, seeds=()))
    assert (group.name, group.configuration) == (f"{NAME}__2d+3d_fullres", "2d+3d_fullres")
    assert group.rows == ("one", "two")


def test_each_number_of_labels_has_a_group_of_its_own(preprocessed: Path) -> None:
    folder = preprocessed / "nnUNetPlans_made_3d"
    folder.mkdir()
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    plans["configurations"] = {"3d_fullres": plans["configurations"]["3d_fullres"]}
    (preprocessed / "nnUNetPlans.json").write_text(json.dumps(plans))
    for index in range(12):
        for ending in (".b2nd", "_seg.b2nd", ".pkl"):
            (folder / f"case_{index:02d}{ending}").touch()
    add_reduced_splits("4", [4, 8])
    few = [{"trainer": each, "name": f"few {each}", "labels": (4, 8)} for each in (PLAIN, GASA)]
    found = groups(study(rows=(PLAIN, *few), seeds=()))
    assert [(each.name, each.labels, each.rows, each.reference) for each in found] == [
        (f"{NAME}__3d_fullres", None, (PLAIN,), PLAIN),
        (f"{NAME}__3d_fullres__8labels", 8, (f"few {PLAIN}", f"few {GASA}"), f"few {PLAIN}"),
        (f"{NAME}__3d_fullres__4labels", 4, (f"few {PLAIN}", f"few {GASA}"), f"few {PLAIN}"),
    ]
    assert [model.folds for model in found[1].models] == [(6,), (6,)]
    assert found[1].title == f"{NAME}, 3d_fullres, 8 labelled cases, cross-validation"
    # drawn once more: validated together, but each draw predicts test cases for itself
    add_reduced_splits("4", [4, 8], seed=1)
    of_cases, of_test = groups(study(rows=(PLAIN, *few), seeds=(), test_set=True))[2:4]
    assert [model.folds for model in of_cases.models] == [(6, 8), (6, 8)]
    assert of_test.test and [model.folds for model in of_test.models] == [(6,), (8,), (6,), (8,)]
    assert [model.text for model in of_test.models_of(f"few {GASA}")] == [f"few {GASA}, fold {n}" for n in (6, 8)]


def test_names_of_groups_name_folders(preprocessed: Path) -> None:
    for name in ("Dataset005_Ä ö", "Dataset006_made"):
        (preprocessed.parent / name).mkdir()
    found = groups(study(datasets=("5", "4"), configurations=("3d_FULLRES", "3d_fullres"), rows=(PLAIN,)))
    names = [each.name for each in found]
    assert names == [
        "Dataset005_---__3d_FULLRES",
        "Dataset005_---__3d_fullres-2",
        f"{NAME}__3d_FULLRES",
        f"{NAME}__3d_fullres-2",
    ]
    assert len({name.lower() for name in names}) == len(names)
