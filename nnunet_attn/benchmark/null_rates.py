"""How often do the paired tests reject, and how often does the interval cover, where no method is better?

`python -m nnunet_attn.benchmark.null_rates --out FILE.json` draws pairs of methods whose true mean difference is 0,
compares them by `nnunet_attn.evaluation.statistics.compare_paired` as `nnunet-attn compare` does, and counts. Other
intervals are counted beside, to show why the one in use was chosen.
"""

import argparse
import math
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import stats

from nnunet_attn.benchmark.command import run
from nnunet_attn.benchmark.provenance import check_output
from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.statistics import LEAST_RESAMPLES, compare_paired, per_split

LEVEL = 0.05
SIZES = (9, 12, 20, 44, 100)
FOLDS = 5
# How alike two methods are on one case, as the concentration of a Beta distribution around the case's own mean.
_CONCENTRATION = 60
_FAILURES = 0.05
# Two trainings of one method that differ by nothing but the seed: an assumption, about one point of Dice.
TRAINING_SD = 0.01

Values = NDArray[np.float64]
Sampler = Callable[[np.random.Generator, tuple[int, int]], tuple[Values, Values]]


@dataclass(frozen=True)
class Null:
    """A way to draw two methods of which none is better in the mean.

    Args:
        title: What it is called on the page.
        text: What is drawn.
        symmetric: Whether the differences are as often a given amount above 0 as below: what Wilcoxon's test tests.
        sample: Draws (simulations, cases) values of both methods.
        in_folds: Whether case i is of fold i % `FOLDS`, and the cases of a fold depend on each other.
    """

    title: str
    text: str
    symmetric: bool
    sample: Sampler
    in_folds: bool = False


def _difficulty(rng: np.random.Generator, shape: tuple[int, int]) -> Values:
    """Mean Dice of each case, the same for both methods: 0.85 in the mean, with a tail to the left."""
    return rng.beta(8, 1.4, shape)


def _around(rng: np.random.Generator, mean: Values, concentration: float) -> Values:
    return rng.beta(mean * concentration, (1 - mean) * concentration)


def _failed(rng: np.random.Generator, values: Values) -> Values:
    """Multiply a few of them by a number below a half."""
    return values * np.where(rng.random(values.shape) < _FAILURES, rng.uniform(0, 0.5, values.shape), 1.0)


def _normal(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Values, Values]:
    return rng.normal(size=shape), rng.normal(size=shape)


def _alike(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Values, Values]:
    mean = _difficulty(rng, shape)
    return _around(rng, mean, _CONCENTRATION), _around(rng, mean, _CONCENTRATION)


def _both_fail(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Values, Values]:
    a, b = _alike(rng, shape)
    return _failed(rng, a), _failed(rng, b)


def _unsteady(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Values, Values]:
    mean = _difficulty(rng, shape)
    return _around(rng, mean, 10), _around(rng, mean, 200)


def _one_fails(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Values, Values]:
    mean = _difficulty(rng, shape)
    a = _failed(rng, _around(rng, mean, _CONCENTRATION))
    # a failure keeps a quarter in the mean
    return a, _around(rng, mean * (1 - 0.75 * _FAILURES), _CONCENTRATION)


def _training_luck(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Values, Values]:
    a, b = _alike(rng, shape)
    folds = np.arange(shape[1]) % FOLDS
    luck = rng.normal(0, TRAINING_SD, (2, shape[0], FOLDS))
    return a + luck[0][:, folds], b + luck[1][:, folds]


NULLS: Mapping[str, Null] = {
    "normal": Null("Normal", "independent normal values", True, _normal),
    "alike": Null(
        "Dice, alike",
        "each case has a mean Dice of its own, Beta(8, 1.4): 0.85 in the mean, tail to the left; both methods draw "
        f"from one Beta distribution of that mean, concentration {_CONCENTRATION}",
        True,
        _alike,
    ),
    "both-fail": Null(
        "Dice, both fail at times",
        f"the same, but each method fails on {_FAILURES:.0%} of the cases, which multiplies its Dice by a number "
        "between 0 and 0.5",
        True,
        _both_fail,
    ),
    "unsteady": Null(
        "Dice, one unsteady",
        "one mean per case for both, but the first method has concentration 10, the second 200: the differences are "
        "skewed",
        False,
        _unsteady,
    ),
    "one-fails": Null(
        "Dice, one fails at times",
        f"the first method fails on {_FAILURES:.0%} of the cases, the second is a little worse on every case, so that "
        "the means are equal: the differences are heavily skewed",
        False,
        _one_fails,
    ),
    "training-luck": Null(
        "Dice, one training a fold",
        f"as 'Dice, alike', in {FOLDS} folds; each fold of each method was trained once, and the luck of a training "
        f"moves all its cases by a normal number of sd {TRAINING_SD}",
        True,
        _training_luck,
        in_folds=True,
    ),
}


def _intervals(differences: Values, n_bootstrap: int, seed: int) -> dict[str, tuple[float, float]]:
    """Return intervals of the mean that are not in use: Student's, plain percentile and BCa."""
    n, mean = len(differences), differences.mean()
    half = stats.t.ppf(1 - LEVEL / 2, n - 1) * differences.std(ddof=1) / math.sqrt(n)
    options: dict[str, Any] = {"vectorized": True, "confidence_level": 1 - LEVEL, "rng": seed}
    first = stats.bootstrap((differences,), np.mean, method="percentile", n_resamples=n_bootstrap, **options)
    with warnings.catch_warnings():
        # tells that BCa has no value; its NaN then counts as an interval that does not cover
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        second = stats.bootstrap(
            (differences,), np.mean, method="BCa", n_resamples=0, bootstrap_result=first, **options
        )
    found = {"percentile": first.confidence_interval, "bca": second.confidence_interval}
    return {
        "t": (mean - half, mean + half),
        **{name: (float(interval.low), float(interval.high)) for name, interval in found.items()},
    }


def rates(null: Null, n: int, simulations: int, n_bootstrap: int, seed: Sequence[int]) -> dict[str, float]:
    """Return how often each test rejects at 5 %, and how often each 95 % interval covers 0.

    Args:
        null: What is drawn.
        n: Pairs of a simulation.
        simulations: How many.
        n_bootstrap: Resamples of each interval.
        seed: Of the simulations; resamples are seeded by the number of the simulation.
    Returns:
        `reject_t`, `reject_wilcoxon`; `cover_used` of the interval in use, `cover_t`, `cover_percentile`, `cover_bca`;
        in folds also `reject_t_folds` of a t-test of the folds' means, `cover_folds` of an interval that draws folds.
    """
    a, b = null.sample(np.random.default_rng(seed), (simulations, n))
    folds = [i % FOLDS for i in range(n)]
    counts: Counter[str] = Counter()
    for row, (first, second) in enumerate(zip(a, b, strict=True)):
        found = compare_paired(first, second, n_bootstrap=n_bootstrap, seed=row)
        intervals = {"used": (found.ci_low, found.ci_high), **_intervals(first - second, n_bootstrap, row)}
        p_values = {"t": found.t_p, "wilcoxon": found.wilcoxon_p}
        if null.in_folds:
            by_fold = compare_paired(first, second, n_bootstrap=n_bootstrap, seed=row, clusters=folds)
            intervals["folds"] = (by_fold.ci_low, by_fold.ci_high)
            means = [list(per_split(values, folds).values()) for values in (first, second)]
            p_values["t_folds"] = compare_paired(means[0], means[1], n_bootstrap=LEAST_RESAMPLES).t_p
        counts.update({f"reject_{name}": int(p < LEVEL) for name, p in p_values.items()})
        counts.update({f"cover_{name}": int(low <= 0 <= high) for name, (low, high) in intervals.items()})
    return {name: count / simulations for name, count in counts.items()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m nnunet_attn.benchmark.null_rates", description=__doc__)
    parser.add_argument("--nulls", nargs="+", choices=tuple(NULLS), default=list(NULLS))
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), metavar="N", help="pairs")
    parser.add_argument("--simulations", type=int, default=4000, help="of each null and size. Default: 4000")
    parser.add_argument("--n-bootstrap", type=int, default=2000, help="resamples of an interval. Default: 2000")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file to write")
    parser.set_defaults(device="cpu")
    return parser


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Simulate every null at every size; return the result, JSON-able.

    Raises:
        InputError: If an option is out of its range, or the result cannot be written.
    """
    if min(args.sizes) < FOLDS:
        raise InputError(f"--sizes {min(args.sizes)}; at least {FOLDS} pairs are needed, one a fold")
    if args.n_bootstrap < LEAST_RESAMPLES or args.simulations < 1 or args.seed < 0:
        raise InputError(
            f"--n-bootstrap must be at least {LEAST_RESAMPLES}, --simulations at least 1, --seed at least 0; got "
            f"{args.n_bootstrap}, {args.simulations}, {args.seed}"
        )
    if args.out is not None:
        check_output(args.out)
    cells = [(name, n) for name in args.nulls for n in args.sizes]

    def seed(name: str, n: int) -> tuple[int, ...]:
        return args.seed, tuple(NULLS).index(name), n

    shown = track(cells, "simulating", console=Console(stderr=True), transient=True)
    return {
        "what": f"Rates of p < {LEVEL} of both tests, and of {1 - LEVEL:.0%} intervals that cover the true 0",
        "settings": {
            "device": "cpu",
            "simulations": args.simulations,
            "n_bootstrap": args.n_bootstrap,
            "sizes": args.sizes,
            "folds": FOLDS,
            "training_sd": TRAINING_SD,
        },
        "libraries": {name: version(name) for name in ("numpy", "scipy", "statsmodels")},
        "nulls": {
            name: {"title": NULLS[name].title, "text": NULLS[name].text, "symmetric": NULLS[name].symmetric}
            for name in args.nulls
        },
        "rates": [
            {"null": name, "n": n, **rates(NULLS[name], n, args.simulations, args.n_bootstrap, seed(name, n))}
            for name, n in shown
        ],
    }


def _table(result: Mapping[str, Any]) -> Table:
    table = Table("null", "pairs", "t-test rejects", "Wilcoxon rejects", "interval covers")
    for row in result["rates"]:
        numbers = (row["reject_t"], row["reject_wilcoxon"], row["cover_used"])
        table.add_row(row["null"], str(row["n"]), *(f"{number:.3f}" for number in numbers))
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run("nnunet_attn.benchmark.null_rates", _parser(), measure, _table, argv)


if __name__ == "__main__":
    sys.exit(main())
