"""`adaptkit report`: statistics that hold what they promise, and tables that mix nothing up."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import zlib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from commandline import call
from scipy import stats
from sklearn.metrics import f1_score, matthews_corrcoef

from adaptkit.errors import AdaptError
from adaptkit.reports.comparison import text
from adaptkit.reports.comparison.charts import Scale
from adaptkit.reports.comparison.names import telling
from adaptkit.reports.comparison.page import page, scores_of
from adaptkit.reports.comparison.runs import collect
from adaptkit.reports.comparison.statistics import (
    estimate,
    holm,
    redrawn_scores,
    weights_of,
)
from adaptkit.reports.comparison.table import table_of
from adaptkit.runs.record import RunResult

CLASSES = ["no", "yes"]
SVG = "{http://www.w3.org/2000/svg}"


# ---- statistics ----


def test_without_rows_the_test_is_scipys():
    random = np.random.default_rng(0)
    one, two = random.normal(size=(2, 6))
    found = estimate([*(one - two)])
    expected = stats.ttest_rel(one, two)
    low, high = expected.confidence_interval()
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert (found.seeds, found.rows) == (6, 0)


def test_one_seed_has_no_interval_and_no_test():
    found = estimate([0.5])
    assert (found.mean, found.low, found.high, found.p) == (0.5, None, None, None)


def test_equal_scores_differ_by_nothing():
    assert estimate([0.0, 0.0]).p == 1.0
    found = estimate([0.1, 0.1])  # of probes that are solved, for example
    assert (found.p, found.low) == (None, None)


@pytest.mark.parametrize(
    ("p", "expected"),
    [  # Holm 1979; the second as in the manual of R's p.adjust
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.01, 0.02, 0.03, 0.04, 0.05], [0.05, 0.08, 0.09, 0.09, 0.09]),
        ([0.6, 0.9], [1.0, 1.0]),
        ([], []),
    ],
)
def test_correction_of_a_known_table(p, expected):
    assert holm(p) == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["accuracy", "f1", "macro_f1", "matthews_correlation"])
def test_redrawn_scores_are_those_of_the_rows_that_were_drawn(metric):
    random = np.random.default_rng(1)
    labels = random.choice(CLASSES, 40).tolist()
    answers = [a if random.random() < 0.7 else "yes" for a in labels]
    weights = weights_of(40)
    expected = {
        "accuracy": lambda t, p: np.mean([a == b for a, b in zip(t, p, strict=True)]),
        "f1": lambda t, p: f1_score(t, p, pos_label="yes", zero_division=0),
        "macro_f1": lambda t, p: f1_score(t, p, average="macro", zero_division=0, labels=CLASSES),
        "matthews_correlation": matthews_corrcoef,
    }[metric]
    score = expected(labels, answers)
    (found,) = redrawn_scores(metric, weights, [answers], labels, CLASSES, [score])
    for draw in range(20):
        rows = np.repeat(np.arange(40), weights[draw].astype(int))
        again = expected([labels[r] for r in rows], [answers[r] for r in rows])
        assert found[draw] == pytest.approx(again, abs=1e-6)


@pytest.mark.parametrize(("metric", "ranked"), [("pearson", False), ("spearmanr", True)])
def test_redrawn_correlations(metric, ranked):
    random = np.random.default_rng(2)
    x = random.normal(size=30)
    y = x + random.normal(size=30)
    weights = weights_of(30)
    of = stats.spearmanr if ranked else stats.pearsonr
    (found,) = redrawn_scores(metric, weights, [[*x]], [*y], (), [of(x, y)[0]])
    a, b = (stats.rankdata(x), stats.rankdata(y)) if ranked else (x, y)
    for draw in range(10):
        rows = np.repeat(np.arange(30), weights[draw].astype(int))
        assert found[draw] == pytest.approx(stats.pearsonr(a[rows], b[rows])[0], abs=1e-5)


def test_a_score_that_does_not_come_out_is_not_redrawn():
    """The F1 of texts has the name of that of classes."""
    answers, labels = ["yes", "no"] * 5, ["yes"] * 10
    assert redrawn_scores("f1", weights_of(10), [answers], labels, CLASSES, [0.123]) is None
    assert redrawn_scores("f1", weights_of(10), [answers], labels, [], [0.5]) is None
    assert redrawn_scores("f1", weights_of(2), [["a b", "c"]], ["a", "c"], CLASSES, [0.9]) is None


def simulated(random: np.random.Generator, gap: float, seeds: int = 5, rows: int = 200) -> Any:
    """Two methods whose rows differ in difficulty, for each its own, and whose seeds differ.

    Right answers [2, seeds, rows]; in expectation over seeds and rows they differ by `gap`.
    """
    hard = random.normal(0, 1.0, (1, 1, rows)) + random.normal(0, 0.7, (2, 1, rows))
    skill = 0.8 + random.normal(0, 0.25, (2, seeds, 1))
    skill[0] += gap
    return random.random((2, seeds, rows)) < 1 / (1 + np.exp(-(skill + hard)))


def compared(right: Any) -> Any:
    weights = weights_of(right.shape[-1], 3)
    drawn = [weights @ right[m].T.astype(np.float32) / right.shape[-1] for m in (0, 1)]
    scores = right.mean(-1)
    return (
        estimate([*(scores[0] - scores[1])], (drawn[0] - drawn[1]).mean(1), right.shape[-1]),
        estimate([*scores[0]], drawn[0].mean(1), right.shape[-1]),
    )


def test_rates_over_simulations():
    """A planted null is found in at most 5 %, a planted difference nearly always."""
    random = np.random.default_rng(4)
    times = 200
    null = [compared(simulated(random, 0.0)) for _ in range(times)]
    truth = np.mean([simulated(random, 0.0, 20, 500)[0].mean() for _ in range(300)])
    found = sum(difference.p < 0.05 for difference, _ in null) / times
    covered = sum(one.low <= truth <= one.high for _, one in null) / times
    power = sum(compared(simulated(random, 1.2))[0].p < 0.05 for _ in range(times)) / times
    assert found <= 0.05 + 0.03
    assert 0.93 <= covered
    assert power >= 0.95


# ---- runs ----


def write_run(folder: Path, seed: int = 0, *, method: str = "lora", right: float = 0.8,
              rows: int = 50, **changes: Any) -> Path:  # fmt: skip
    """A finished run whose answers are right with a probability, and its predictions."""
    random = np.random.default_rng(zlib.crc32(f"{method} {right}".encode()) + seed)
    labels = np.random.default_rng(rows).choice(CLASSES, rows).tolist()
    answers = [a if random.random() < right else CLASSES[a == "no"] for a in labels]
    score = float(np.mean([a == b for a, b in zip(answers, labels, strict=True)]))
    settings = {"seed": seed, "optimizer.lr": 1e-3, **changes.pop("settings", {})}
    plain = {
        "task": "sst2", "task_version": 1, "model": "minilm", "method": method, "regularizers": [],
        "variant": "", "seed": seed, "metric": "accuracy", "split": "validation",
        "settings": settings, "status": "done", "started_at": "2026-01-01T00:00:00+00:00",
        "finished_at": "2026-01-01T00:01:00+00:00", "score": score, "scores": {"accuracy": score},
        "baseline": {"name": "majority class", "value": 0.55}, "labels": CLASSES,
        "data": {"source": "local", "rows": {"train": 100, "validation": rows},
                 "fingerprint": f"rows{rows}"},
        "params": {"trainable": {"lora": 1000, "full": 90000}.get(method, 500)},
        "delta_bytes": 4000, "time": {"train_seconds": 10.0, "total_seconds": 12.0},
        "memory": {"peak_rss_bytes": 10**9}, "precision": "fp32", **changes,
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(plain))
    lines = [json.dumps({"id": str(i), "prediction": a, "label": b})
             for i, (a, b) in enumerate(zip(answers, labels, strict=True))]  # fmt: skip
    (folder / "predictions.jsonl").write_text("\n".join(lines))
    (folder / "history.jsonl").write_text(
        "\n".join(json.dumps({"eval_accuracy": score * s / 4, "step": s}) for s in (2, 4))
    )
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for method, right in (("lora", 0.7), ("full", 0.95), ("bitfit", 0.7)):
        for seed in range(4):
            write_run(tmp_path / "runs" / method / str(seed), seed, method=method, right=right)
    return tmp_path / "runs"


def test_the_table(runs):
    table = table_of(collect([runs]))
    assert sorted(table.rows) == ["bitfit", "full", "lora"]
    (column,) = table.columns
    assert table.title(column) == "sst2, accuracy"
    cell = table.cells["lora", column]
    scores = [RunResult.read(runs / "lora" / str(s)).score for s in range(4)]
    assert cell.estimate.mean == pytest.approx(np.mean(scores))
    assert cell.spread["deviation"] == pytest.approx(np.std(scores, ddof=1))
    assert (cell.spread["min"], cell.spread["median"]) == (min(scores), np.median(scores))
    assert cell.estimate.rows == 50  # the intervals allow for other rows
    assert cell.estimate.half > stats.t.ppf(0.975, 3) * np.std(scores, ddof=1) / 2 * 0.8
    by_names = {frozenset((pair.one, pair.two)): pair for pair in table.pairs}
    assert by_names[frozenset(("full", "lora"))].differs
    assert "full is better than" in by_names[frozenset(("full", "lora"))].sentence()
    null = by_names[frozenset(("bitfit", "lora"))]
    assert not null.differs
    assert "not distinguishable with these 4 seeds" in null.sentence()


def test_agreement_is_the_share_of_equal_answers(runs):
    table = table_of(collect([runs]))
    cell = table.cells["lora", table.columns[0]]
    lists = [[json.loads(line)["prediction"] for line in
              (runs / "lora" / str(s) / "predictions.jsonl").read_text().splitlines()]
             for s in range(4)]  # fmt: skip
    expected = np.mean([np.mean([a == b for a, b in zip(lists[i], lists[j], strict=True)])
                        for i in range(4) for j in range(i)])  # fmt: skip
    assert cell.agreement() == pytest.approx(expected)


def test_a_rate_chosen_for_each_setting_is_not_in_the_name():
    flat = [{"optimizer.lr": 1e-3, "method.rank": 4}, {"optimizer.lr": 1e-4, "method.rank": 8}]
    assert telling(flat) == ["method.rank"]
    assert telling([*flat, {"optimizer.lr": 1e-4, "method.rank": 4}]) == [
        "optimizer.lr", "method.rank"]  # fmt: skip
    assert telling(flat[:1]) == []


def test_every_row_shows_its_rates(tmp_path):
    """The rate of a task, those of several tasks from the least on, none where none was used."""
    rates = [("lora", "sst2", 5e-3), ("lora", "mrpc", 0.000158), ("full", "sst2", 2e-5),
             ("probe", "sst2", None)]  # fmt: skip  # solved without an update
    for method, task, rate in rates:
        for seed in range(2):
            write_run(tmp_path / method / task / str(seed), seed, method=method, task=task,
                      updates=0 if rate is None else 100,
                      settings={"optimizer.lr": rate or 1e-3})  # fmt: skip
    table = table_of(collect([tmp_path]))
    head, *body = text.grid(table)
    shown = {line[0]: line[head.index("rate")] for line in body}
    assert shown == {"lora": "0.000158 to 0.005", "full": "2e-05", "probe": "",
                     "(majority class)": ""}  # fmt: skip
    entries = {(one["row"], one["task"]): one["optimizer.lr"] for one in text.entries(table)}
    assert entries == {(method, task): rate for method, task, rate in rates}


def test_failed_runs_are_counted_apart(tmp_path):
    for seed in range(3):
        write_run(tmp_path / f"ok{seed}", seed, right=0.9)
    write_run(tmp_path / "low", 3, right=0.1)
    write_run(tmp_path / "dead", 4, status="failed", score=None, scores={}, precision="")
    write_run(tmp_path / "nan", 5, status="failed", score=None, error="the loss is nan")
    table = table_of(collect([tmp_path]))
    cell = table.cells["lora", table.columns[0]]
    assert (len(cell.scores), cell.collapsed, cell.died) == (4, 1, 2)
    assert "1 of 6 trivial, 2 of 6 died" in text.shown(cell)


def test_a_failed_run_that_was_repeated_is_not_counted(tmp_path):
    write_run(tmp_path / "a", 0)
    write_run(tmp_path / "b", 1)
    write_run(tmp_path / "first", 1, status="failed", score=None, data={})
    write_run(tmp_path / "held", 2, status="failed", score=None, settings={"data.holdout": True})
    found = collect([tmp_path])
    table = table_of(found)
    (cell,) = table.cells.values()
    assert (len(cell.runs), cell.died) == (2, 0)
    assert any("first failed, and was repeated" in remark for remark in table.remarks)
    assert any("held has no score" in remark for remark in table.remarks)


def test_old_and_new_records_are_one_row(tmp_path):
    write_run(tmp_path / "a", 0)
    write_run(tmp_path / "b", 1, settings={"trainer.find_batch_size": False, "data.holdout": False,
                                           "model.dtype": "auto"})  # fmt: skip
    write_run(tmp_path / "c", 2, made_of={"model": "0123456789"})
    assert table_of(collect([tmp_path])).rows == ["lora"]
    write_run(tmp_path / "d", 3, made_of={"model": "abcdefabcdef"})  # other weights of that name
    assert sorted(table_of(collect([tmp_path])).rows) == [
        "lora (01234567)", "lora (abcdefab)", "lora (unknown)"]  # fmt: skip


@pytest.mark.parametrize("lost", [True, False])
def test_seeds_that_train_on_other_rows_are_one_column(tmp_path, lost):
    """Without labels, or predictions, only the files say which rows were scored."""
    for seed in range(3):
        data = {"source": "local", "rows": {"train": 10, "validation": 50},
                "fingerprint": f"of seed {seed}"}  # fmt: skip
        folder = write_run(tmp_path / str(seed), seed, data=data, made_of={"data": "a"})
        if lost:
            (folder / "predictions.jsonl").unlink()
        else:
            lines = [json.dumps({"id": str(i), "prediction": {}, "label": None}) for i in range(50)]
            (folder / "predictions.jsonl").write_text("\n".join(lines))
    write_run(tmp_path / "other", 0, made_of={"data": "b"}, rows=60)
    table = table_of(collect([tmp_path]))
    assert len(table.columns) == 2
    assert max(len(cell.scores) for cell in table.cells.values()) == 3


def test_losses_should_be_small_whatever_they_are_called(tmp_path):
    for metric in ("masked_loss", "word_perplexity", "perplexity", "loss"):
        write_run(tmp_path / metric, 0, metric=metric, score=1.0)
    assert not any(column.larger_is_better for column in table_of(collect([tmp_path])).columns)


def test_what_cannot_be_compared_stands_apart(tmp_path):
    write_run(tmp_path / "a", 0)
    write_run(tmp_path / "b", 1)
    write_run(tmp_path / "c", 0, rows=60)  # other rows
    write_run(tmp_path / "d", 0, task_version=2)
    write_run(tmp_path / "e", 0, task="lm", metric="perplexity", score=30.0)
    table = table_of(collect([tmp_path]))
    assert len(table.columns) == 4
    titles = [table.title(column) for column in table.columns]
    assert len({*titles}) == 4
    remarks = "\n".join(table.remarks)
    assert "stand in 3 columns; their scores cannot be compared" in remarks
    assert "less is better: lm, perplexity" in remarks
    assert "one seed, so no interval" in remarks
    assert not any(len({pair.one, pair.two}) < 2 for pair in table.pairs)


def test_perplexity_that_is_smaller_is_better(tmp_path):
    for method, score in (("lora", 20.0), ("full", 40.0)):
        for seed in range(3):
            write_run(tmp_path / method / str(seed), seed, method=method, task="lm",
                      metric="perplexity", score=score + seed * 0.1, labels=[],
                      baseline={"name": "untrained", "value": 30.0})  # fmt: skip
    table = table_of(collect([tmp_path]))
    assert "lora is better than full" in table.pairs[0].sentence()
    assert table.cells["full", table.columns[0]].collapsed == 3
    assert table.cells["lora", table.columns[0]].collapsed == 0


def test_damaged_and_double_runs_are_named(runs, tmp_path):
    (runs / "lora" / "0" / "result.json").write_text("{")
    write_run(runs / "again", 1, right=0.7, finished_at="2026-02-01T00:00:00+00:00")
    write_run(runs / "full" / "0" / "eval" / "imdb", 0)  # an evaluation is not a run
    write_run(runs / "race" / "optimizer.lr=1", 9)  # nor is a candidate
    (runs / "race" / "race.json").write_text("{}")
    write_run(
        runs / "eval" / "lora", 7, status="failed", score=None
    )  # but a folder may be called so
    found = collect([runs])
    assert len(found.runs) == 12
    assert any("result.json is damaged" in remark for remark in found.remarks)
    assert any("again, which is newer" in remark for remark in found.remarks)
    assert len(collect([runs, runs / "lora"]).runs) == 12  # the same folder twice is one


def test_runs_of_an_older_version(runs):
    """A key that came later counts as what older runs did."""
    file = runs / "lora" / "0" / "result.json"
    plain = json.loads(file.read_text())
    plain["settings"]["trainer.fast"] = True
    plain["unknown_key"] = 1
    del plain["memory"]
    file.write_text(json.dumps(plain))
    table = table_of(collect([runs]))
    assert len(table.cells["lora", table.columns[0]].runs) == 4


def test_nothing_to_report(tmp_path):
    with pytest.raises(AdaptError, match="no finished run below"):
        collect([tmp_path])
    with pytest.raises(AdaptError, match="is not a folder"):
        collect([tmp_path / "missing"])


# ---- files ----


class Reader(html.parser.HTMLParser):
    """Notes elements that are left open, and everything that would be fetched or carried out."""

    VOID = ("meta", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.kinds: set[str] = set()

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.kinds.add(tag)
        assert not {"src", "href", "onclick", "onload"} & {name for name, _ in attributes}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: Any) -> None:
        self.kinds.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_from_elsewhere(runs):
    found = collect([runs])
    whole = page(table_of(found), "optimizer.lr")
    reader = Reader()
    reader.feed(whole)
    assert reader.open == []
    assert {"svg", "table", "style"} <= reader.kinds
    assert "script" not in reader.kinds
    assert "http" not in whole.replace("http-equiv", "")
    assert "accuracy against trained" in whole
    assert "accuracy while training" in whole


def test_the_scores_are_a_picture_of_their_own(runs, tmp_path):
    """One figure for each column, from the best row down, and nothing from elsewhere."""
    table = table_of(collect([runs]))
    whole = scores_of(table)
    image = ElementTree.fromstring(whole)
    captions = " ".join(one.text for one in image.findall(f"{SVG}text"))
    assert captions.count("95 % interval") == len(table.columns)
    assert all(table.title(column) in captions for column in table.columns)
    for column, figure in zip(table.columns, image.findall(f"{SVG}g"), strict=True):
        words = [one.text for one in figure.iter(f"{SVG}text")]
        found = {row: cell.estimate.mean for (row, one), cell in table.cells.items()
                 if one == column and cell.estimate}  # fmt: skip
        places = [words.index(row) for row in sorted(found, key=lambda row: -found[row])]
        assert column.larger_is_better
        assert places == sorted(places)
    assert whole.count("http") == 1  # the name of SVG itself
    assert not {"href", "src"} & {word.partition("=")[0] for word in whole.split()}


def test_a_picture_has_room_for_every_name(tmp_path):
    """Long captions take several lines; what XML cannot hold is replaced."""
    long = "task " * 30
    write_run(tmp_path / "one", 0, task=f"{long}\x0b", method="a\x08<b")
    image = ElementTree.fromstring(scores_of(table_of(collect([tmp_path]))))
    captions = [one.text for one in image.findall(f"{SVG}text")]
    assert len(captions) > 1
    assert max(map(len, captions)) < 100
    assert "95 % interval" in " ".join(captions)
    assert "a\ufffd<b" in [one.text for one in image.iter(f"{SVG}text")]


def test_no_picture_is_drawn_of_nothing(tmp_path):
    write_run(tmp_path / "one", 0, status="failed", score=None, scores={})
    done = call("report", tmp_path, "--out", tmp_path / "a.md", "--out", tmp_path / "a.svg")
    assert done.status == 2
    assert "one has no score). Train some first" in done.err.splitlines()[-1]
    assert not (tmp_path / "a.md").exists()


def test_names_are_data(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / str(seed), seed, method="<script>&_|", task="a&b")
    table = table_of(collect([tmp_path]))
    assert "<script>" not in page(table)
    assert r"<script>\&\_|" in text.latex(table)
    assert r"<script>&_\|" in text.markdown(table)


def test_every_format_says_the_same(runs):
    table = table_of(collect([runs]))
    cell = table.cells["full", table.columns[0]]
    plain = json.loads(text.as_json(table))
    (entry,) = (one for one in plain["cells"] if one["row"] == "full")
    assert entry["mean"] == cell.estimate.mean
    assert entry["low"] == cell.estimate.low
    lines = {one["row"]: one for one in csv.DictReader(io.StringIO(text.as_csv(table)))}
    assert float(lines["full"]["mean"]) == cell.estimate.mean
    shown = f"{cell.estimate.mean:.3f} ± {cell.estimate.half:.3f}"
    assert shown in text.markdown(table)
    assert shown.replace("±", r"$\pm$") in text.latex(table)
    assert len(plain["tests"]) == 3


def test_a_sample_is_marked_in_every_cell(tmp_path):
    for seed in (0, 1):
        data = {"source": "sample", "rows": {"train": 1, "validation": 50}, "fingerprint": "x"}
        write_run(tmp_path / str(seed), seed, data=data)
    table = table_of(collect([tmp_path]))
    assert "SAMPLE" in text.markdown(table).splitlines()[0]
    assert "SAMPLE" in text.markdown(table).splitlines()[2]
    assert any("bundled SAMPLE" in remark for remark in table.remarks)


@pytest.mark.parametrize("log", [False, True])
def test_axes_hold_what_they_show(log):
    for values in ([0.5], [0.1, 0.2], [3.0, 3e6], [1e-5, 1e-3]):
        scale = Scale.over(values, 0, 100, log)
        assert all(0 < scale(value) < 100 for value in values)
        assert all(0 <= scale(tick) <= 100 for tick in scale.ticks())
        assert 1 <= len(scale.ticks()) <= 14


def test_the_command(runs, tmp_path):
    out = [f"--out={tmp_path / name}" for name in ("r.html", "r.md", "r.json", "r.tex", "r.csv")]
    answer = call("report", str(runs), *out, "--by=optimizer.lr")
    assert answer.status == 0
    assert "full is better than" in answer.out
    assert all((tmp_path / name).stat().st_size for name in ("r.html", "r.md", "r.tex"))
    for words, says in (
        ([str(tmp_path / "none")], "is not a folder"),
        ([str(runs), "--out=r.pdf"], "must end in .html"),
        ([str(runs), f"--out={tmp_path}/none/r.md"], "a folder that is there"),
        ([str(runs), "--by=optimizer.lrr"], "Did you mean optimizer.lr?"),
    ):
        answer = call("report", *words)
        assert answer.status == 2
        assert says in answer.err
