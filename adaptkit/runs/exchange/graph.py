"""A finished run as an ONNX graph, kept only if it answers as the run does.

Compared are the outputs of a few batches of other shapes than that of the export, and the answers
to rows of the scored split: the graph's, those of the run's own model, and the stored ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from adaptkit.adaptation import Batch
from adaptkit.config.settings import Settings
from adaptkit.errors import AdaptError, MachineError
from adaptkit.interop.onnx_file import GRAPH, Graph, write_graph
from adaptkit.models.body import config_of
from adaptkit.models.heads import HEADS
from adaptkit.runs.delta import SavedRun
from adaptkit.runs.predictions import read_predictions, same
from adaptkit.runs.prepare import feed_of, scorer_of
from adaptkit.runs.verify import scored_splits
from adaptkit.tasks.task import ID, Answer
from adaptkit.training.batching import Feed
from adaptkit.training.scorer import Prepared

TOLERANCE = 1e-4  # of the graph's outputs, relative to the largest
ROWS = 500  # of the scored split that are answered


def write_onnx(saved: SavedRun, prepared: Prepared, folder: Path) -> str:
    """Write config.json and model.onnx; return what was written, in words.

    Raises:
        AdaptError: the run writes texts, its model cannot be expressed, or its rows have changed.
        MachineError: the graph does not answer as the run does.
    """
    run, adaptation = saved.settings, prepared.adaptation
    if prepared.form.generates:
        raise AdaptError(
            "it writes texts word by word, which takes many passes, and an ONNX graph holds one. "
            "Use --format merged."
        )
    if run.model.quantization:
        raise AdaptError(
            f"model.quantization={run.model.quantization}: packed weights have no form in ONNX. "
            "Use --format peft."
        )
    rows = scored_splits(run).validation[""]
    rows = rows.select(range(min(len(rows), ROWS)))
    feed = feed_of(run, prepared, rows)
    batches, names = batches_of(feed), HEADS[run.head].proof
    expected = [outputs_of(run, prepared, batch, names) for batch in batches]
    answers = scorer_of(run, prepared).answers(feed)
    if adaptation.merge is not None:
        adaptation.merge()
    config_of(adaptation.model).save_pretrained(folder)
    write_graph(adaptation.model, batches[0].inputs, names, folder / GRAPH)
    graph = replace(prepared, adaptation=replace(adaptation, model=Graph(folder / GRAPH)))
    for batch, wanted in zip(batches, expected, strict=True):
        check_outputs(wanted, outputs_of(run, graph, batch, names))
    remark = check_answers(saved, rows[ID][:], answers, scorer_of(run, graph).answers(feed))
    size = sum(file.stat().st_size for file in folder.glob(f"{GRAPH}*")) / 1e6
    return (
        f"ONNX graph of {type(adaptation.model).__name__}, {size:,.1f} MB; onnxruntime gives the "
        f"run's answers to {len(rows):,} rows of the {run.task.split} split{remark}"
    )


def batches_of(feed: Feed) -> list[Batch]:
    """Return small batches of several shapes; the first has two rows, with padding if it can."""
    order = sorted(range(len(feed)), key=lambda index: feed.lengths[index])
    chosen = [[order[-1], order[0]], [order[len(order) // 2]], list(range(min(8, len(feed))))]
    return [feed.batch(indices) for indices in chosen]


def outputs_of(
    run: Settings, prepared: Prepared, batch: Batch, names: Sequence[str]
) -> dict[str, Tensor]:
    """Return the named outputs of a batch."""
    return scorer_of(run, prepared).proof(batch, names)


def check_outputs(expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    """Compare a batch's outputs.

    Raises:
        MachineError: they differ by more than the rounding of sums.
    """
    for name, tensor in expected.items():
        alike = found[name].shape == tensor.shape
        difference = float((found[name] - tensor).abs().max()) if alike else float("inf")
        if not difference <= TOLERANCE * max(1.0, float(tensor.abs().max())):
            raise MachineError(
                f"the ONNX graph gives other {name} than the run (largest difference "
                f"{difference:.3g}), so it was not kept. Use --format merged or peft."
            )


def check_answers(
    saved: SavedRun, ids: Sequence[str], own: Sequence[Answer], found: Sequence[Answer]
) -> str:
    """Compare the graph's answers with the model's own and the stored ones; return a remark.

    A run that was scored in a half format or on a GPU may have stored others in close cases.

    Raises:
        AdaptError: a row was not scored by the run: its data have changed.
        MachineError: an answer differs.
    """
    stored = read_predictions(saved.directory)
    if other := [name for name in ids if name not in stored]:
        raise AdaptError(
            f"the row with id {other[0]!r} was not scored by the run: the data files changed, so "
            "that the ONNX graph cannot be compared. Put back those it was trained with."
        )
    before = [stored[name][0] for name in ids]
    _check_same(ids, own, found, "the run's model")
    exact = saved.result is None or (saved.result.precision, saved.result.device) == ("fp32", "cpu")
    if exact:
        _check_same(ids, before, found, "predictions.jsonl")
    count = sum(not same(one, other) for one, other in zip(before, found, strict=True))
    where: Any = saved.result
    return f"; {count} stored ones, made in {where.precision}, differ" if count else ""


def _check_same(
    ids: Sequence[str], expected: Sequence[Answer], found: Sequence[Answer], whose: str
) -> None:
    for name, one, other in zip(ids, expected, found, strict=True):
        if not same(one, other):
            raise MachineError(
                f"the ONNX graph answers {other!r:.60} to the row with id {name!r}, and {whose} "
                f"{one!r:.60}, so it was not kept. Try adaptkit verify on the run."
            )
