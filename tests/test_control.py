"""Control tasks: random tags by word type, their shares, and what is recorded."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from commandline import call, tiny
from test_tasks import Given

from adaptkit.config.compose import compose
from adaptkit.config.settings import settings
from adaptkit.errors import AdaptError, ConfigError
from adaptkit.runs.evaluating.evaluate import keep_wording
from adaptkit.tasks.tag import Tag

TAGS = ("A", "B", "C")


def written(folder: Path, words: int = 3000) -> Path:
    """Write sentences of six words; A is six times as common as B, and C three times."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = "AAAAAABCCC"
    for split, first in (("train", 0), ("validation", words // 2)):
        lines = []
        for start in range(first, first + words, 6):
            numbers = range(start, start + 6)
            tags = [kinds[n % 10] for n in numbers]
            lines.append(json.dumps({"tokens": [f"word{n}" for n in numbers], "tags": tags}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


def loaded(folder: Path, seed: int = 0) -> dict[str, set[str]]:
    splits = Tag("t", path=str(folder), labels=TAGS, control=seed).load(Given(), 0)
    seen = defaultdict(set)
    for rows in (splits.train, splits.validation[""]):
        for row in rows:
            for word, tag in zip(row["tokens"], row["label"], strict=True):
                seen[word].add(tag)
    return seen


def test_a_word_has_one_tag_wherever_it_stands(tmp_path):
    """Half of the validation words stand in training as well."""
    seen = loaded(written(tmp_path))
    assert len(seen) == 4500 and all(len(tags) == 1 for tags in seen.values())
    counts = Counter(tag for (tag,) in seen.values())
    for tag, share in zip(TAGS, (0.6, 0.1, 0.3), strict=True):
        assert counts[tag] / 4500 == pytest.approx(share, abs=0.03)
    again, other = loaded(tmp_path), loaded(tmp_path, seed=1)
    assert seen == again
    same = sum(seen[word] == other[word] for word in seen) / 4500
    assert same == pytest.approx(0.6**2 + 0.1**2 + 0.3**2, abs=0.03)  # chance


def test_the_shares_are_those_of_training_and_are_kept(tmp_path):
    task = Tag("t", path=str(written(tmp_path, 300)), labels=TAGS, control=0)
    splits = task.load(Given(), 0)
    assert splits.task.control_shares == pytest.approx((0.6, 0.1, 0.3))
    assert any("control task (task.control=0)" in note for note in splits.notes)
    again = splits.task.load(Given(), 0, train=False)  # as an evaluation does
    assert again.validation[""]["label"][:] == splits.validation[""]["label"][:]
    with pytest.raises(AdaptError, match="no training rows are read"):
        task.load(Given(), 0, train=False)


def test_a_run_is_evaluated_on_its_own_control_task(checkpoints, tmp_path):
    data = written(tmp_path / "data", 60)
    words = [*tiny(checkpoints["bert"]), "task=tag", f"task.path={data}", "task.control=3",
             "method=probe"]  # fmt: skip
    done = call("train", *words, f"output_dir={tmp_path / 'run'}")
    assert done.status == 0, done.err
    again = call("eval", tmp_path / "run", f"--output={tmp_path / 'again'}")
    assert again.status == 0, again.err
    done = call("train", *words, f"output_dir={tmp_path / 'run'}")  # typed without its shares
    assert done.status == 0 and "done before" in done.err, done.err
    scores = [json.loads((tmp_path / name / "result.json").read_text())["scores"]
              for name in ("run", "again")]  # fmt: skip
    assert scores[0] == pytest.approx(scores[1])


def test_other_rows_have_the_tags_of_the_same_control_task(tmp_path):
    """Also with the classes in another order."""
    task = Tag("t", path=str(written(tmp_path, 300)), labels=TAGS, control=0)
    own = task.load(Given(), 0)
    other = own.task.with_classes(("C", "A", "B"))
    assert dict(zip(other.classes, other.control_shares, strict=True)) == dict(
        zip(own.task.classes, own.task.control_shares, strict=True)
    )
    rows = own.validation[""]
    assert other.controlled(rows)["label"][:] == own.task.controlled(rows)["label"][:]
    before = {"kind": "tag", "control": 0, "control_shares": [0.6, 0.1, 0.3]}
    now = {"kind": "tag", "control": None, "control_shares": []}
    keep_wording(before, now, [])
    assert now == before
    typed = {"kind": "tag", "control": None, "control_shares": []}
    keep_wording(before, typed, ["task.control"])
    assert typed["control"] is None


@pytest.mark.parametrize(
    ("typed", "why"),
    [("task.control=-1", "0 or more"), ("task.control=0 task.metric=entities", "no entities")],
)
def test_what_is_rejected(typed, why):
    with pytest.raises(ConfigError, match=why):
        settings(compose(["task=ud_ewt", *typed.split()]))
