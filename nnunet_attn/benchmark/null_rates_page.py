"""Makes the page of the rates where no method is better; see `nnunet_attn.benchmark.pages`."""

import math

from nnunet_attn.benchmark.markdown import Results, measured_with, table

_NULL_RATES = """# Paired tests where no method is better

How often do the tests of `nnunet-attn compare` find a difference that is not there? Pairs of methods are drawn whose
true mean difference is 0. Of p-values below 0.05 there should be 0.05; of 95 % intervals 0.95 should hold the 0. "In
use" is the interval of the package: the percentile interval of the bootstrap, widened as Student's is; the others are
here to show why. What follows for your own comparison is told in [paired tests](../explanation/paired-tests.md).

These are made data: they show how the formulas behave with few and skewed values, not how your data behave.
"""

_COLUMNS = {
    "reject_t": "t-test: p < 0.05",
    "reject_wilcoxon": "Wilcoxon: p < 0.05",
    "cover_used": "interval in use holds 0",
    "cover_percentile": "percentile",
    "cover_bca": "BCa",
    "cover_t": "Student's",
    "reject_t_folds": "t-test of the folds' means: p < 0.05",
    "cover_folds": "interval in use, drawing folds",
}


def null_rates_page(results: Results) -> str:
    """Return the page of all `null-rates-*.json`, as Markdown."""
    parts = [_NULL_RATES]
    for file, result in results.items():
        settings = result["settings"]
        error = math.sqrt(0.05 * 0.95 / settings["simulations"])
        parts.append(
            f"{settings['simulations']:,} simulations of each line, {settings['n_bootstrap']:,} resamples of each "
            f"interval; a rate of 0.05 or 0.95 has a standard error of {error:.4f}.\n"
        )
        for name, null in result["nulls"].items():
            rows = [row for row in result["rates"] if row["null"] == name]
            columns = [key for key in _COLUMNS if all(key in row for row in rows)]
            asked = "" if null["symmetric"] else " Wilcoxon's test asks for symmetry, and that is not given here."
            parts += [
                f"## {null['title']}\n\n{null['text'][0].upper()}{null['text'][1:]}.{asked}\n",
                table(
                    ("pairs", *(_COLUMNS[key] for key in columns)),
                    [(str(row["n"]), *(f"{row[key]:.3f}" for key in columns)) for row in rows],
                ),
            ]
        parts.append("## Where it was measured\n\n" + measured_with(result, file))
    return "\n".join(parts)
