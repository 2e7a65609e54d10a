"""The page: one file, everything in it, whatever names and states are."""

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from nnunet_attn.evaluation.compare_tables import number
from nnunet_attn.study.engine.job import note_file
from nnunet_attn.study.engine.jobs import jobs
from nnunet_attn.study.engine.markers import marker_file, write_json
from nnunet_attn.study.folder import log_file
from nnunet_attn.study.report import words
from nnunet_attn.study.report.model import ReportData
from nnunet_attn.study.report.page import dataset_facts, page
from nnunet_attn.study.report.trouble import last_lines, troubles
from tests.made.report import DATASET, NAMES, made_pick, made_report

VOID = {"meta", "link", "br", "wbr", "img", "input", "hr", "line", "path", "use", "image"}


class Checked(HTMLParser):
    """Collects what a page loads, its ids, headings and tables, and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: Counter[str] = Counter()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.scopes: list[str | None] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.tags[tag] += 1
        self.ids += [known["id"] or ""] if "id" in known else []
        for key in ("src", "srcset", "data", "poster", "href"):
            value = known.get(key) or ""
            if key in known and not (key == "href" and tag in ("a", "use")):
                self.loaded.append(value)
        if tag == "a":
            self.links.append(known.get("href") or "")
        if tag == "th":
            self.scopes.append(known.get("scope"))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
            self.open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def small_report(**changed: Any) -> ReportData:
    """Two folds and a few epochs: less to draw."""
    return made_report(**{"folds": 2, "epochs": 5, **changed})


@pytest.fixture(scope="module")
def text():
    return page(small_report())


def test_nothing_is_loaded_from_elsewhere(text):
    checked = Checked(text)
    assert all(each.startswith("data:") for each in checked.loaded)
    assert not re.search(r"@import|url\((?!#)", text)
    assert "//" not in re.sub(r"//[^\n]*Sorts tables[^\n]*|//[^\n]*comes last[^\n]*", "", text)


def test_every_element_is_closed_and_every_id_is_there_once(text):
    checked = Checked(text)
    assert checked.open == []
    assert len(set(checked.ids)) == len(checked.ids)
    assert {each.removeprefix("#") for each in checked.links} <= set(checked.ids)


def test_tables_have_a_caption_and_headings_with_a_scope(text):
    checked = Checked(text)
    assert checked.tags["caption"] == checked.tags["table"] > 10
    assert set(checked.scopes) == {"col", "row"}


def test_sections_come_in_their_order(text):
    headings = re.findall(r"<h2>([^<]*)</h2>", text)
    assert headings == [
        "Question and setup",
        "Result",
        "What makes the comparison unfair",
        "Each class",
        "Each case",
        "Paired differences",
        "Training curves",
        "Dice against labelled cases",
        "Cost",
        "Trainings",
        "Data and splits",
        "Versions and hardware",
        "How to reproduce it",
    ]
    assert text.index("epochs</strong>") < text.index("Each class")


def test_names_are_escaped(text):
    assert "<narrow>" not in text
    assert "&lt;narrow&gt; &amp; 20% of" in text


def test_the_verdict_says_what_is_better_and_worse(text):
    data = small_report()
    comparison = data.groups[0].comparison
    assert comparison is not None
    better, worse = comparison.result("dice").differences
    told = words.verdict(data.groups[0], "dice")
    assert [kind for kind, _ in told] == ["better", "worse"]
    assert number(better.paired.mean_difference, 4, sign=True) in told[0][1] and better.method in told[0][1]
    assert number(worse.paired.mean_difference, 4, sign=True) in told[1][1]
    assert told[0][1].startswith("Better than Plain U-Net in Dice: GASA-UNet (mean difference +0.03")


def test_what_does_not_differ_is_not_told_apart_and_few_pairs_are_said():
    data = made_report(("one", "two"), cases=6, seeds=(0,))
    told = words.verdict(data.groups[0], "volume_difference_mm3")
    assert [kind for kind, _ in told] == ["equal", "few"]


def test_a_mean_to_one_side_and_cases_to_the_other_are_no_verdict():
    data = small_report(names=NAMES[:2], labels=False)
    report = data.groups[0]
    table = report.table("dice")
    assert table is not None and [kind for kind, _ in words.verdict(report, "dice")] == ["better"]
    row = table.rows[1]
    assert row.difference is not None
    paired = replace(row.difference.paired, wins=3, losses=9)
    other = replace(table, rows=(table.rows[0], replace(row, difference=replace(row.difference, paired=paired))))
    ((kind, told),) = words.verdict(replace(report, tables=(other,)), "dice")
    assert kind == "mixed" and told.startswith("Told apart from Plain U-Net in Dice, but the mean is to one side")


def test_a_comparison_that_can_still_be_made_is_not_finished():
    data = small_report(compared=False)
    assert all(each.state.kind == "done" for each in data.runs) and not words.is_finished(data)
    alone = replace(data.groups[0], group=replace(data.groups[0].group, models=data.groups[0].group.models[:2]))
    assert words.is_finished(replace(data, groups=(alone,)))
    tested = replace(data.groups[0], group=replace(data.groups[0].group, test=True))
    assert words.is_finished(replace(data, groups=(tested,), datasets=()))


def test_a_study_that_is_not_finished_says_so(text):
    assert "This study is not finished" not in text
    data = small_report(finished=False)
    told = page(data)
    assert "This study is not finished" in told and "12 trainings: 10 done, 1 waiting, 1 failed." in told
    assert "<strong>Not complete</strong>: " in told and "RuntimeError: CUDA out of memory" in told


def test_the_last_lines_of_a_log_stand_in_the_page(tmp_path):
    log = tmp_path / "training_log_2026_3_1_12_00_00.txt"
    log.write_text("\n".join(f"line {at}" for at in range(100)) + "\n<b>the end</b>\n\n", encoding="utf-8")
    data = small_report(finished=False)
    failed = data.runs[-2]
    data = replace(data, runs=(*data.runs[:-2], replace(failed, state=replace(failed.state, log=log)), data.runs[-1]))
    (trouble,) = troubles(data)
    assert trouble.lines.splitlines()[-2:] == ["line 99", "<b>the end</b>"]
    assert len(trouble.lines.splitlines()) == 15
    told = page(data)
    assert "&lt;b&gt;the end&lt;/b&gt;" in told and "line 84" not in told and log.name in told


def test_jobs_that_are_no_trainings_are_shown_too(tmp_path, monkeypatch):
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    (tmp_path / "raw" / DATASET).mkdir(parents=True)
    data = small_report()
    assert troubles(data, tmp_path) == []
    known = {job.kind: job for job in jobs(data.study)}
    for kind in ("plan", "evaluate", "report"):
        note = {"stage": "failed", "pid": 1, "host": "here", "began": 1.0, "ended": 2.0, "message": f"no <{kind}>"}
        write_json(note, note_file(tmp_path, known[kind].name))
        log = log_file(tmp_path, known[kind].name)
        log.parent.mkdir(exist_ok=True)
        log.write_text(f"the log of {kind}\n", encoding="utf-8")
    told = troubles(data, tmp_path)
    assert [(each.title, each.text, each.lines) for each in told] == [
        (f"Plan {DATASET}, nnUNetPlans", "no <plan>", "the log of plan"),
        (f"Evaluate {known['evaluate'].model.text}, {DATASET}, 3d_fullres", "no <evaluate>", "the log of evaluate"),
    ]
    assert "no &lt;plan&gt;" in page(data, tmp_path)
    write_json({}, marker_file(tmp_path, known["plan"].name))
    assert len(troubles(data, tmp_path)) == 1


def test_a_progress_bar_is_one_line(tmp_path):
    log = tmp_path / "log.txt"
    log.write_bytes(b"begin\r\n 10%\r 20%\r100%\nend \xff\n")
    assert last_lines(log) == "begin\n100%\nend \N{REPLACEMENT CHARACTER}"
    assert last_lines(tmp_path / "none.txt") == ""


def test_pictures_can_be_left_out(tmp_path):
    data = small_report(picks=[made_pick(tmp_path)])
    shown, bare = page(data), page(data, pictures=False)
    assert "data:image/jpeg" in shown and "Pictures were left out." not in shown
    assert "data:image" not in bare and bare.count("Pictures were left out.") == 1


def test_many_methods_do_not_push_the_result_down():
    few, many = page(small_report()), page(small_report(names=tuple("abcdef")))
    title = "The methods: trainers, plans, options, optimisers</summary>"
    assert title not in few and title in many


def test_nothing_finished_is_a_page_too():
    data = small_report(compared=False, finished=False, labels=False)
    bare = replace(
        data,
        runs=(),
        costs=(),
        datasets=(),
        trained_on=(),
        unfair=(),
        problems=("No data set was found.",),
        study_text="",
    )
    for each in (data, bare):
        told = page(each)
        assert "Nothing can be compared here yet: no training is finished" in told
        assert Checked(told).open == []
        assert "Each class" not in told and "Paired differences" not in told
    none = page(replace(bare, groups=(), problems=()))
    assert "No group of methods could be made out" in none and "Nothing was found" in none


def test_one_method_alone_asks_how_well():
    data = small_report(names=NAMES[:2], labels=False)
    assert words.question(replace(data, rows=data.rows[:1])) == "How well does Plain U-Net segment Dataset910_Made?"
    assert words.question(data).startswith("Which of these two methods")


def test_two_groups_have_ids_of_their_own():
    data = small_report()
    other = replace(data.groups[0], group=replace(data.groups[0].group, name="other", test=True))
    checked = Checked(page(replace(data, groups=(data.groups[0], other))))
    assert len(set(checked.ids)) == len(checked.ids)


def test_the_study_can_be_done_again(text):
    assert "nnunet-attn study run study.yaml" in text and "datasets: [910]" in text


def test_sizes_are_told_with_the_axes_that_a_data_set_has() -> None:
    (data,) = made_report().datasets
    assert dataset_facts(data)[-1] == "median size 40 x 320 x 260 voxels, spacing 2.5 x 0.8 x 0.8 mm"
    flat = replace(data, median_shape=(1.0, 320.0, 260.0), median_spacing_mm=(999.0, 0.8, 0.8))
    assert dataset_facts(flat)[-1] == "median size 320 x 260 pixels, spacing 0.8 x 0.8 mm"
