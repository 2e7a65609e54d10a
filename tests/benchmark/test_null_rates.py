"""The study of the statistics where no method is better: what it draws, counts and shows, and what it kept."""

import argparse
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from nnunet_attn.benchmark import null_rates
from nnunet_attn.benchmark.null_rates import NULLS, Null, main, rates
from nnunet_attn.benchmark.null_rates_page import null_rates_page
from nnunet_attn.evaluation.statistics import LEAST_RESAMPLES

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "explanation" / "paired-tests.md").read_text(encoding="utf-8")


def kept() -> dict[str, Any]:
    return json.loads((DOCS / "results" / "null-rates-cpu.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", NULLS)
def test_no_method_is_better_in_the_mean(name: str) -> None:
    a, b = NULLS[name].sample(np.random.default_rng(1), (20_000, 20))
    differences = (a - b).mean(axis=1)
    assert abs(differences.mean()) < 4 * differences.std() / np.sqrt(len(differences))
    skewness = stats.skew((a - b).ravel())
    assert abs(skewness) < 0.1 if NULLS[name].symmetric else skewness < -0.5
    if name.startswith("both") or name in ("alike", "unsteady"):
        assert stats.skew(a.ravel()) < -0.5, "Dice has its tail to the left"
        assert a.min() >= 0 and a.max() <= 1


def test_cases_of_a_fold_depend_on_each_other_where_it_is_said_so() -> None:
    for null in NULLS.values():
        a, b = null.sample(np.random.default_rng(1), (20_000, 6))
        difference = a - b
        same_fold = np.corrcoef(difference[:, 0], difference[:, 5])[0, 1]
        assert bool(same_fold > 0.03) is null.in_folds
        assert abs(np.corrcoef(difference[:, 0], difference[:, 1])[0, 1]) < 0.03


def test_rates_are_counted_as_they_are_named() -> None:
    far = Null("", "", True, lambda rng, shape: (rng.normal(9, 1, shape), rng.normal(0, 1, shape)), in_folds=True)
    found = rates(far, 10, 30, LEAST_RESAMPLES, (0,))
    assert {name: rate for name, rate in found.items() if rate != name.startswith("reject")} == {}
    assert set(found) == {f"reject_{test}" for test in ("t", "wilcoxon", "t_folds")} | {
        f"cover_{interval}" for interval in ("used", "t", "percentile", "bca", "folds")
    }
    normal = rates(NULLS["normal"], 9, 200, LEAST_RESAMPLES, (0, 0))
    assert normal == rates(NULLS["normal"], 9, 200, LEAST_RESAMPLES, (0, 0))
    # Student's interval misses 0 where his test rejects
    assert normal["cover_t"] == pytest.approx(1 - normal["reject_t"])
    assert 0 < normal["reject_t"] < 0.12 and "cover_folds" not in normal


def test_the_command_writes_what_the_page_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "null-rates-made.json"
    words = ["--nulls", "one-fails", "training-luck", "--sizes", "5", "--simulations", "10", "--n-bootstrap", "100"]
    assert main([*words, "--seed", "3", "--out", str(file)]) == 0
    assert "one-fails" in capsys.readouterr().out
    result = json.loads(file.read_text(encoding="utf-8"))
    assert [row["null"] for row in result["rates"]] == ["one-fails", "training-luck"]
    assert result["provenance"]["seed"] == 3 and result["libraries"]["scipy"]
    page = null_rates_page({file.name: result})
    for row in result["rates"]:
        assert f"| 5 | {row['reject_t']:.3f} | {row['reject_wilcoxon']:.3f} | {row['cover_used']:.3f} |" in page
    assert page.count("drawing folds") == 1 and page.count("asks for symmetry") == 1
    assert f"({file.name})" in page and "10 simulations" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sizes", "4"], "--sizes 4"),
        (["--simulations", "0"], "--simulations"),
        (["--n-bootstrap", "99"], "at least 100"),
        (["--seed", "-1"], "--seed"),
        (["--out", "missing/file.json"], "--out"),
    ],
)
def test_wrong_options_are_told(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and message in told


def test_the_explanation_has_every_option_and_its_commands_parse() -> None:
    actions = [action for action in null_rates._parser()._actions if action.dest != "help"]
    spellings = [spelling for action in actions for spelling in action.option_strings]
    assert not [spelling for spelling in spellings if not re.search(rf"`{spelling}[` ]", PAGE)]
    beginning = "python -m nnunet_attn.benchmark.null_rates "
    lines = [line for line in PAGE.splitlines() if line.startswith(beginning)]
    assert lines
    for line in lines:
        parsed: argparse.Namespace = null_rates._parser().parse_args(shlex.split(line.removeprefix(beginning)))
        assert parsed.out is not None


def test_the_kept_rates_are_as_the_explanation_tells() -> None:
    result = kept()
    assert result["settings"]["simulations"] >= 2000
    assert [(row["null"], row["n"]) for row in result["rates"]] == [
        (name, n) for name in NULLS for n in null_rates.SIZES
    ]
    found = {(row["null"], row["n"]): row for row in result["rates"]}
    for (name, n), row in found.items():
        if NULLS[name].symmetric and not NULLS[name].in_folds:
            # heavy tails make the t-test shy, never bold; Wilcoxon's test with 9 pairs cannot reach 0.05 exactly
            assert row["reject_t"] <= 0.065 and 0.03 <= row["reject_wilcoxon"] <= 0.065
            assert row["cover_used"] >= 0.91
        assert row["cover_used"] > row["cover_percentile"]
        assert (row["cover_bca"] > row["cover_used"]) is ((name, n) == ("one-fails", 100))
        if name == "normal" and n >= 20:
            assert 0.04 <= row["reject_t"] <= 0.06 and 0.04 <= row["reject_wilcoxon"] <= 0.06
    told = {
        "both-fail-student": found["both-fail", 9]["cover_t"],
        "both-fail-bca": found["both-fail", 20]["cover_bca"],
        "one-fails-wilcoxon": found["one-fails", 44]["reject_wilcoxon"],
        "one-fails-cover": min(found["one-fails", n]["cover_used"] for n in null_rates.SIZES),
        "luck-t": found["training-luck", 100]["reject_t"],
        "luck-folds": found["training-luck", 100]["reject_t_folds"],
    }
    assert {name: f"{rate:.2f}" for name, rate in told.items() if f"{rate:.2f}" not in PAGE} == {}
