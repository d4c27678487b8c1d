"""What a reader of a score should know: is it above the trivial one, and was anything learnt?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from adaptkit.metrics.bootstrap import Array, draws, mean_draws, quantiles, ratio_draws
from adaptkit.tasks.task import LABEL, Splits, Task
from adaptkit.training.scorer import Scored

SAMPLE = (
    "WARNING: {why}, so this run uses the bundled SAMPLE of {task}: a few hundred rows generated "
    "by a grammar. Its scores say nothing about the real task. For real data, set data.root=DIR."
)
WORSE = 1.25  # times the loss of the first update: more than batches differ by chance


def score_interval(task: Task, scored: Scored) -> tuple[float, float] | None:
    """Return the 95 % interval of the deciding score, if rows can be drawn again for it."""
    return quantiles(score_draws(task, scored))


def score_draws(task: Task, scored: Scored, seed: int = 0) -> Array | None:
    """Return the deciding score of redrawn rows [times]; other seeds give independent draws."""
    if (rows := task.row_scores(scored.answers, scored.rows)) is not None:
        return mean_draws(rows, seed)
    if (parts := task.parts(scored.answers, scored.rows)) is not None:
        return ratio_draws(*parts, seed)
    labels = scored.rows[LABEL][:]
    return draws(task.headline, scored.answers, labels, task.classes, seed)


def one_answer(scored: Scored) -> str | None:
    """Say so if all rows got the same answer, although their labels differ."""
    answers = {json.dumps(answer) for answer in scored.answers}
    labels = {json.dumps(label) for label in scored.rows[LABEL][:]}
    if len(answers) > 1 or len(labels) < 2 or len(scored.answers) < 2:
        return None
    return f"all {len(scored.answers)} predictions are {answers.pop()}"


def of_threshold(headline: str) -> str | None:
    """Say so if the deciding score is that of the threshold which suits the scored rows best."""
    if not headline.startswith("best_"):
        return None
    return f"{headline} takes the threshold that suits these rows best: optimistic"


def ended_worse(history: Sequence[Mapping[str, Any]]) -> str | None:
    """Say so if the training loss of the last logged updates is far above that of the first."""
    losses = [entry["loss"] for entry in history if "loss" in entry]
    if len(losses) == 1:  # a short run: its evaluations say how it went on
        losses += [entry["eval_loss"] for entry in history if "eval_loss" in entry][-1:]
    if len(losses) < 2 or not losses[-1] > WORSE * losses[0]:
        return None
    return (
        f"the training loss rose from {losses[0]:.4g} to {losses[-1]:.4g}: the run ended worse "
        "than it started; lower optimizer.lr"
    )


def of_sample(splits: Splits, asked: bool) -> list[str]:
    """Say so if the bundled sample serves as data; `asked`: the user wanted it."""
    if splits.source.kind != "sample":
        return []
    why = "there is no local folder and the hub cannot be reached"
    return [SAMPLE.format(why="data.source=sample" if asked else why, task=splits.task.name)]
