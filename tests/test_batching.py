"""Batches: every row once, seeded, neighbours in length; padding and its masks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from datasets import Dataset
from families import tiny_tokenizer

from adaptkit.tasks.forms.head import HeadForm
from adaptkit.tasks.task import Reader
from adaptkit.training.batching import (
    BucketSampler,
    CachedFeed,
    Feed,
    Part,
    Shards,
    longest_first,
    pieces,
)

SIZES = [(1, 4), (3, 4), (4, 4), (5, 4), (203, 4), (200, 4), (1000, 16), (801, 16), (7, 1)]


def texts(count: int, seed: int = 0) -> np.ndarray:
    """Lengths as texts have them: many short ones and a long tail."""
    return np.random.default_rng(seed).geometric(0.05, count) + 2


def batches(sampler: BucketSampler, size: int) -> list[list[int]]:
    order = list(sampler)
    return [order[i : i + size] for i in range(0, len(order), size)]


def padding(lengths: np.ndarray, cut: list[list[int]]) -> float:
    """Return the share of positions that hold no token."""
    held = sum(len(batch) * lengths[batch].max() for batch in cut)
    return 1 - lengths.sum() / held


@pytest.mark.parametrize(("count", "size"), SIZES)
@pytest.mark.parametrize("epoch", [0, 3])
def test_every_row_once(count, size, epoch):
    sampler = BucketSampler(texts(count), size, seed=1)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert sorted(order) == list(range(count))
    assert len(sampler) == count
    assert all(type(row) is int for row in order)


def test_order_depends_on_seed_and_epoch_alone():
    def order(seed: int, epoch: int) -> list[int]:
        sampler = BucketSampler(texts(203), 4, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    first = order(0, 0)
    np.random.default_rng(5).random()
    np.random.seed(3)
    torch.manual_seed(3)
    assert order(0, 0) == first
    seen = [first, order(0, 1), order(1, 0), order(1, 1), order(0, 2)]
    assert all(a != b for i, a in enumerate(seen) for b in seen[:i])


def test_iterating_does_not_advance():
    sampler = BucketSampler(texts(50), 4, seed=0)
    assert list(sampler) == list(sampler)


@pytest.mark.parametrize(("count", "size"), SIZES)
@pytest.mark.parametrize("seed", range(5))
def test_longest_full_batch_comes_first(count, size, seed):
    """Too little memory shows at once: no later batch holds a longer text than the first."""
    rows = texts(count, seed)
    cut = batches(BucketSampler(rows, size, seed), size)
    full = [batch for batch in cut if len(batch) == size]
    assert [len(batch) for batch in cut] == [size] * len(full) + [count % size] * (count % size > 0)
    if full:
        assert rows[full[0]].max() == max(rows[batch].max() for batch in full)


@pytest.mark.parametrize("count", [101, 301])
def test_first_is_longest_even_where_the_rest_is_longer(count):
    """The half batch at the end comes out of the last pool and may hold the longest text."""
    seen = 0
    for seed in range(300):
        rows = np.random.default_rng(seed).permutation(count) + 1
        *full, rest = batches(BucketSampler(rows, 2, seed), 2)
        assert rows[full[0]].max() == max(rows[batch].max() for batch in full)
        seen += rows[rest].max() == count
    assert seen


def test_other_batches_come_in_random_order_of_length():
    rows = texts(2000)
    longest = [rows[batch].max() for batch in batches(BucketSampler(rows, 8, 0), 8)][1:]
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.2


def test_neighbours_in_length():
    rows, size = texts(4000), 16
    bucketed = padding(rows, batches(BucketSampler(rows, size, 0), size))
    random = list(np.random.default_rng(0).permutation(len(rows)))
    shuffled = padding(rows, [random[i : i + size] for i in range(0, len(random), size)])
    assert shuffled > 0.5
    assert bucketed < shuffled / 3


def test_batch_mates_change_between_epochs():
    sampler = BucketSampler(texts(800), 8, seed=0)
    first = {frozenset(batch) for batch in batches(sampler, 8)}
    sampler.set_epoch(1)
    second = {frozenset(batch) for batch in batches(sampler, 8)}
    assert len(first & second) < len(first) / 10


def meetings(lengths: np.ndarray, by_length: bool) -> float:
    """Return which share of the pairs of a batch had met in the epoch before."""
    sampler, shares = BucketSampler(lengths, 32, seed=0, by_length=by_length), []
    before = np.full(len(lengths), -1)
    for epoch in range(4):
        sampler.set_epoch(epoch)
        now = np.empty(len(lengths), int)
        met = pairs = 0
        for number, batch in enumerate(batches(sampler, 32)):
            now[batch] = number
            met += int((before[batch][:, None] == before[batch]).sum()) - len(batch)
            pairs += len(batch) * (len(batch) - 1)
        if epoch:
            shares.append(met / pairs)
        before = now
    return float(np.mean(shares))


def test_rows_of_a_small_training_set_rarely_meet_again():
    """Sorted by length alone 95 % of them did, and 3 % do by chance."""
    lengths = np.random.default_rng(0).integers(5, 401, 1000)
    assert meetings(lengths, by_length=True) < 0.2
    assert meetings(lengths, by_length=False) < 0.05


def test_without_groups_of_length_it_is_a_plain_shuffle():
    rows = texts(2000)
    cut = batches(BucketSampler(rows, 16, 0, by_length=False), 16)
    assert sorted(row for batch in cut for row in batch) == list(range(2000))
    random = list(np.random.default_rng(0).permutation(len(rows)))
    shuffled = padding(rows, [random[i : i + 16] for i in range(0, len(random), 16)])
    assert padding(rows, cut) == pytest.approx(shuffled, abs=0.02)


@pytest.mark.parametrize("count", [1, 2, 17])
@pytest.mark.parametrize("size", [1, 4])
def test_longest_first(count, size):
    rows = texts(count)
    cut = longest_first(rows, size)
    order = [row for batch in cut for row in batch]
    assert sorted(order) == list(range(count))
    assert [int(n) for n in rows[order]] == sorted(map(int, rows), reverse=True)
    assert [len(batch) for batch in cut[:-1]] == [size] * (len(cut) - 1)


# ---- the batches of one process ----


def feed_of(lengths: np.ndarray) -> Feed:
    """Texts of these lengths, and no more."""
    columns = {"length": lengths.tolist(), "row": list(range(len(lengths)))}
    return Feed(Dataset.from_dict(columns), FORM, reader(0))


def shards(
    count: int, size: int, steps: int, world: int, epoch: int = 0, tokens: int | None = None
) -> list[list[list[list[int]]]]:
    """The steps of every process, each in pieces."""
    made, feed = [], feed_of(texts(count))
    for rank in range(world):
        order = BucketSampler(feed.lengths, size * steps * world, 3)
        sampler = Shards(order, size, steps, rank, world, feed, tokens)
        sampler.set_epoch(epoch)
        made.append(list(sampler))
        assert len(sampler) == len(made[-1])
    return made


@pytest.mark.parametrize("count", [1, 5, 13, 16, 44])
@pytest.mark.parametrize(("size", "steps", "world"), [(4, 2, 1), (2, 4, 1), (1, 8, 1), (4, 1, 2),
                                                     (2, 2, 2), (1, 2, 4), (2, 1, 4)])  # fmt: skip
def test_an_update_has_the_same_rows_however_it_is_cut(count, size, steps, world):
    whole = shards(count, 8, 1, 1, epoch=2)[0]
    cut = shards(count, size, steps, world, epoch=2)
    assert all(len(step) == 1 for process in (whole, *cut) for step in process)
    assert len({len(batches) for batches in cut}) == 1  # no process waits for another
    for update, ((rows),) in enumerate(whole):
        mine = [batches[update * steps : (update + 1) * steps] for batches in cut]
        found = [row for step in zip(*mine, strict=True) for (batch,) in step for row in batch]
        assert sorted(found) == sorted(rows)
        sizes = [len(batch) for step in zip(*mine, strict=True) for (batch,) in step]
        assert max(sizes) <= size
    for step in zip(*cut, strict=True):
        sizes = [len(batch) for (batch,) in step]
        assert sizes == sorted(sizes, reverse=True) and sizes[0] > 0


@pytest.mark.parametrize("count", [1, 5, 44])
@pytest.mark.parametrize(("size", "steps", "world"), [(8, 1, 1), (4, 2, 1), (4, 1, 2), (2, 1, 4)])
@pytest.mark.parametrize("tokens", [1, 40, 100, 10**6])
def test_a_budget_cuts_steps_and_changes_none(count, size, steps, world, tokens):
    """Each process has its rows, and the Trainer its number of steps."""
    free, cut = (shards(count, size, steps, world, 2, most) for most in (None, tokens))
    for before, after in zip(free, cut, strict=True):
        assert len(before) == len(after)
        for (rows,), step in zip(before, after, strict=True):
            assert sorted(row for piece in step for row in piece) == sorted(rows)
            assert len(step) == 1 or all(step)
            assert within(texts(count), step, size, tokens)
            assert tokens < 10**6 or step == [rows]  # in their order


def within(lengths: np.ndarray, cut: list[list[int]], rows: int, tokens: int) -> bool:
    """Tell whether no piece is too large, but for single texts."""
    held = [(len(piece), len(piece) * max(lengths[piece], default=0)) for piece in cut]
    return all(size <= rows and (total <= tokens or size == 1) for size, total in held)


@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("tokens", [1, 12, 60, 240])
def test_pieces_are_as_full_as_the_budget_allows(rows, tokens):
    lengths = texts(200)
    some = list(range(0, 200, 3))
    cut = pieces(lengths, some, rows, tokens)
    assert sorted(row for piece in cut for row in piece) == some
    assert within(lengths, cut, rows, tokens)
    for piece, (first, *_) in pairwise(cut):
        assert not within(lengths, [[*piece, first]], rows, tokens)
    assert longest_first(lengths, rows, tokens, some) == cut
    by_all = longest_first(lengths, rows, tokens)
    assert within(lengths, by_all, rows, tokens) and sum(map(len, by_all)) == 200


def test_texts_without_a_token_fit_anywhere():
    assert pieces([0, 0, 3], [0, 1, 2], 2, 3) == [[2], [0, 1]]
    assert pieces([0, 0], [], 2, 3) == [[]]


def test_an_example_of_several_texts_counts_them_all():
    columns = {"length": [5, 4, 9], "row": [0, 1, 2], "texts": [2, 4, 3]}
    several = Feed(Dataset.from_dict(columns), FORM, reader(0))
    assert several.sizes == [20, 16, 36]
    assert Part(several, [2, 0]).sizes == [36, 20]


# ---- batches of a form ----

FORM = HeadForm(("text",), ("bad", "good"), 64)
SCORES = HeadForm(("text",), (), 64)


def example(*ids: int, target: float = 0, types: bool = False, row: int = 0) -> dict:
    made = {"input_ids": list(ids), "target": target, "length": len(ids), "row": row}
    return made | ({"token_type_ids": [0] * (len(ids) - 1) + [1]} if types else {})


class Pad:
    """A tokenizer as far as padding needs one."""

    def __init__(self, pad_id: int, pad_type: int = 0) -> None:
        self.pad_token_id, self.pad_token_type_id = pad_id, pad_type


def reader(pad_id: int, pad_type: int = 0) -> Reader:
    return Reader(Pad(pad_id, pad_type))  # type: ignore[arg-type]


def test_padding_on_the_right_to_the_longest():
    examples = [example(1, 2), example(3, target=1, row=4), example(4, 5, 6, row=2)]
    batch = FORM.collate(examples, reader(9))
    assert batch.inputs["input_ids"].tolist() == [[1, 2, 9], [3, 9, 9], [4, 5, 6]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 1]]
    assert batch.targets["target"].tolist() == [0, 1, 0]
    assert set(batch.inputs) == {"input_ids", "attention_mask"}
    assert {t.dtype for t in (*batch.inputs.values(), batch.targets["target"])} == {torch.int64}
    assert batch.rows == [0, 4, 2] and batch.weight == 3


def test_mask_marks_length_not_identity():
    """Where the padding token also ends a text (GPT-2), the real one is seen."""
    batch = FORM.collate([example(1, 7), example(1, 2, 7)], reader(7))
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]


def test_one_example():
    batch = FORM.collate([example(1, 2, 3)], reader(9))
    assert {name: tuple(t.shape) for name, t in batch.inputs.items()} == {
        "input_ids": (1, 3), "attention_mask": (1, 3),
    }  # fmt: skip
    assert batch.inputs["attention_mask"].all() and batch.targets["target"].shape == (1,)


@pytest.mark.parametrize("pad_type", [0, 3])
def test_token_types(pad_type):
    batch = FORM.collate([example(1, 2, types=True), example(3, types=True)], reader(9, pad_type))
    assert batch.inputs["token_type_ids"].tolist() == [[0, 1], [1, pad_type]]


def test_scores_stay_numbers():
    batch = SCORES.collate([example(1, target=2.5), example(2, target=4.0)], reader(0))
    assert batch.targets["target"].dtype.is_floating_point
    assert batch.targets["target"].tolist() == [2.5, 4.0]


def test_without_labels_there_is_no_target():
    bare = {"input_ids": [1, 2], "length": 2, "row": 0}
    batch = FORM.collate([bare], reader(0))
    assert batch.targets == {} and batch.weight == 0


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "t5", "xlnet"])
def test_padding_equals_the_tokenizers(name):
    tokenizer = tiny_tokenizer(name)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    sentences = ["good", "the film was not bad", "an hour too long"]
    expected = tokenizer(sentences, padding=True, return_tensors="pt")
    rows = Dataset.from_dict({"text": sentences})
    feed = Feed(FORM.encode(rows, Reader(tokenizer)), FORM, Reader(tokenizer))
    found = feed.batch([0, 1, 2]).inputs
    assert set(found) == set(expected)
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key
    assert feed.rows == [0, 1, 2] and feed.lengths == expected["attention_mask"].sum(1).tolist()


def feed() -> Feed:
    columns = [example(*range(1, n + 1), target=n % 2, row=i) for i, n in enumerate([5, 2, 9, 1])]
    return Feed(Dataset.from_list(columns), FORM, reader(0))


def test_an_empty_batch_is_a_filler_without_weight():
    batch = feed().batch([])
    assert batch.weight == 0 and batch.inputs["input_ids"].shape == (1, 5)


def test_cached_features_are_finished_batches():
    features = torch.arange(12.0).reshape(4, 3)
    rows = CachedFeed(feed(), list(features))
    loader = torch.utils.data.DataLoader(
        rows, batch_sampler=[[[2, 0]], [[3], []]], collate_fn=lambda step: step
    )
    (first,), (second, filler) = list(loader)
    assert first.inputs["features"].tolist() == features[[2, 0]].tolist()
    assert first.targets["target"].tolist() == [1, 1] and first.rows == [2, 0]
    assert second.inputs["features"].tolist() == [[9, 10, 11]]
    assert filler.weight == 0 and (first.weight, second.weight) == (2, 1)
    assert rows.lengths == [5, 2, 9, 1] and len(rows) == 4


def test_cached_features_of_tokens_are_padded():
    states = [torch.full((n, 2), float(n)) for n in (5, 2, 9, 1)]
    batch = CachedFeed(feed(), states).batch([1, 0])
    assert batch.inputs["features"].shape == (2, 5, 2)
    assert batch.inputs["features"][0, 2:].abs().sum() == 0
