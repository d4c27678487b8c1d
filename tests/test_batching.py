"""Batches: every row once, seeded, neighbours in length; padding and its masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from families import tiny_tokenizer

from adaptkit.training.batching import BucketSampler, Collator, Features, LongestFirst, lengths

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
    assert bucketed < shuffled / 5


def test_batch_mates_change_between_epochs():
    sampler = BucketSampler(texts(800), 8, seed=0)
    first = {frozenset(batch) for batch in batches(sampler, 8)}
    sampler.set_epoch(1)
    second = {frozenset(batch) for batch in batches(sampler, 8)}
    assert len(first & second) < len(first) / 10


@pytest.mark.parametrize("count", [1, 2, 17])
@pytest.mark.parametrize("shape", [(), (3,)])
def test_longest_first(count, shape):
    rows = texts(count)
    sampler = LongestFirst(rows)
    order = list(sampler)
    assert sorted(order) == list(range(count))
    assert [int(n) for n in rows[order]] == sorted(map(int, rows), reverse=True)
    values = np.random.default_rng(0).random((count, *shape))
    assert np.array_equal(sampler.restore(values[order]), values)


@pytest.mark.parametrize("values", [np.array([3, 1, 2]), np.array([0.5, -1.0, 2.0], np.float32)])
def test_restore_keeps_the_type(values):
    restored = LongestFirst([1, 5, 3]).restore(values)
    assert restored.dtype == values.dtype
    assert restored.tolist() == [values[2], values[0], values[1]]


def row(*ids: int, label: float = 0, types: bool = False) -> dict:
    made = {"input_ids": list(ids), "labels": label, "length": len(ids)}
    return made | ({"token_type_ids": [0] * (len(ids) - 1) + [1]} if types else {})


def test_collator_pads_on_the_right_to_the_longest():
    batch = Collator(pad_id=9)([row(1, 2), row(3, label=1), row(4, 5, 6)])
    assert batch["input_ids"].tolist() == [[1, 2, 9], [3, 9, 9], [4, 5, 6]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 1]]
    assert batch["labels"].tolist() == [0, 1, 0]
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert {t.dtype for t in batch.values()} == {torch.int64}


def test_mask_marks_length_not_identity():
    """Where the padding token also ends a text (GPT-2), the real one is seen."""
    batch = Collator(pad_id=7)([row(1, 7), row(1, 2, 7)])
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]


def test_collator_one_row():
    batch = Collator(pad_id=9)([row(1, 2, 3)])
    assert {name: tuple(t.shape) for name, t in batch.items()} == {
        "input_ids": (1, 3), "attention_mask": (1, 3), "labels": (1,),
    }  # fmt: skip
    assert batch["attention_mask"].all()


@pytest.mark.parametrize("pad_type", [0, 3])
def test_collator_token_types(pad_type):
    batch = Collator(pad_id=9, pad_type_id=pad_type)([row(1, 2, types=True), row(3, types=True)])
    assert batch["token_type_ids"].tolist() == [[0, 1], [1, pad_type]]


def test_collator_scores_stay_numbers():
    batch = Collator(pad_id=0)([row(1, label=2.5), row(2, label=4.0)])
    assert batch["labels"].dtype.is_floating_point
    assert batch["labels"].tolist() == [2.5, 4.0]


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "t5", "xlnet"])
def test_collator_equals_the_tokenizer_padding(name):
    tokenizer = tiny_tokenizer(name)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    sentences = ["good", "the film was not bad", "an hour too long"]
    expected = tokenizer(sentences, padding=True, return_tensors="pt")
    one_by_one = [{**tokenizer(s), "labels": 0} for s in sentences]
    found = Collator(tokenizer.pad_token_id, tokenizer.pad_token_type_id)(one_by_one)
    assert set(found) - {"labels"} == set(expected)
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key


def test_features_are_finished_batches():
    features = torch.arange(12.0).reshape(4, 3)
    rows = Features(features, [0, 1, 1, 0], [5, 2, 9, 1])
    loader = torch.utils.data.DataLoader(rows, 2, sampler=[2, 0, 3], collate_fn=Collator(0))
    found = list(loader)
    assert [b["features"].tolist() for b in found] == [features[[2, 0]].tolist(), [[9, 10, 11]]]
    assert [b["labels"].tolist() for b in found] == [[1, 0], [0]]
    assert lengths(rows) == [5, 2, 9, 1]
    assert len(rows) == 4
    assert rows[1]["features"].shape == (1, 3)
    assert math.isclose(rows[1]["features"].sum(), 12)
