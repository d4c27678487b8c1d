"""What tasks over one or two texts and a label share: reading, checking and encoding rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from adaptkit.errors import AdaptError, at_least, did_you_mean, one_of
from adaptkit.tasks import source

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Splits:
    """Rows with `labels` checked and numbered; validation by name, the first one decides."""

    train: Dataset | None
    validation: dict[str, Dataset]
    origin: source.Origin
    labels: tuple[str, ...]  # class names; one empty name for a regression


@dataclass(frozen=True)
class TextTask:
    """One or two texts in, one label out. Fields are the keys of a task's YAML."""

    name: str
    path: str | None = None  # hub id, folder or file
    subset: str | None = None  # a hub data set's configuration
    revision: str | None = None
    text: tuple[str, ...] = ()  # one column, or two for a pair
    label: str = "label"
    train: str = "train"  # names of the splits
    validation: str = "validation"
    also: dict[str, str] = field(default_factory=dict)  # further scored splits: name -> split
    metric: str = ""  # of adaptkit.metrics.glue
    best: str = ""  # the score by which runs and checkpoints are compared
    max_length: int = 128  # tokens, special ones included; longer texts are cut

    head = "sequence"

    def __post_init__(self) -> None:
        at_least("task.max_length", self.max_length, 4)
        if len(self.text) not in (1, 2):
            raise AdaptError(
                f"task.text={list(self.text)}: name one column, or two for a pair of texts."
            )

    def _check_best(self, scores: tuple[str, ...]) -> None:
        """Take the first score, or check the one that was named; of all of them more is better."""
        if not self.best:
            object.__setattr__(self, "best", scores[0])
        further = [f"{score}_{split}" for score in scores for split in self.also]
        one_of("task.best", self.best, (*scores, *further))

    def read(self, data: Any, split: str, origin: source.Origin | None = None) -> Dataset:
        """Return the raw rows of one split, with their columns checked.

        Raises:
            AdaptError: no such split or column, no rows, or a text that is no text.
        """
        wanted = self._wanted(data)
        rows = source.read(wanted, origin or source.find(wanted), split)
        for column in (*self.text, self.label):
            if column not in rows.column_names:
                raise AdaptError(
                    f"task {self.name}, split {split}: no column {column!r}; "
                    f"{did_you_mean(column, rows.column_names)}"
                    f"columns: {', '.join(rows.column_names)}. Set task.text or task.label."
                )
        if len(rows) == 0:
            raise AdaptError(f"task {self.name}, split {split}: has no rows.")
        for column in self.text:
            for number, value in enumerate(rows[column][:], 1):
                if not isinstance(value, str):
                    raise AdaptError(
                        f"task {self.name}, split {split}, row {number}: {column} is "
                        f"{value!r}, not a text."
                    )
        return rows

    def origin(self, data: Any) -> source.Origin:
        """Return where the rows will come from."""
        return source.find(self._wanted(data))

    def _wanted(self, data: Any) -> source.Wanted:
        return source.Wanted(
            self.name, self.path, self.subset, self.revision, data.root, data.source
        )

    def scored(self) -> dict[str, str]:
        """Return the splits a run is scored on, by the suffix of their scores."""
        return {"": self.validation, **self.also}

    def encode(self, rows: Dataset, tokenizer: Any, limit: int | None) -> Dataset:
        """Tokenise rows: columns input_ids (and token_type_ids), labels, length; order is kept.

        Special tokens written in a text are plain text. At most `limit` tokens, the model's.
        """
        longest = min(self.max_length, limit or self.max_length)
        guard = plain_text(tokenizer)

        def tokens(batch: dict[str, list]) -> dict[str, list]:
            texts = [[guard(text) for text in batch[column]] for column in self.text]
            out = tokenizer(
                *texts, truncation=True, max_length=longest, split_special_tokens=True,
                return_attention_mask=False,
            )  # fmt: skip
            # Where no special token is added an empty text has no token: it gets one.
            for name in out:
                lone = tokenizer.eos_token_id if name == "input_ids" else 0
                out[name] = [values or [lone or 0] for values in out[name]]
            out["length"] = [len(ids) for ids in out["input_ids"]]
            return dict(out)

        drop = [c for c in rows.column_names if c != "labels"]
        return rows.map(
            tokens,
            batched=True,
            remove_columns=drop,
            keep_in_memory=True,
            load_from_cache_file=False,
        )

    def score(self, predictions: Any, labels: Any) -> dict[str, float]:
        """Return the task's metrics of predictions [N] against labels [N]."""
        from adaptkit.metrics.glue import Glue

        glue = Glue(config_name=self.metric, keep_in_memory=True)
        return glue.compute(predictions=predictions, references=labels)


def plain_text(tokenizer: Any) -> Callable[[str], str]:
    """Return what breaks up special tokens in a text where `split_special_tokens` does not.

    A unigram model (T5, XLNet, ALBERT) has them in its vocabulary and finds them by itself.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if type(getattr(backend, "model", None)).__name__ != "Unigram":
        return lambda text: text

    def broken_up(text: str) -> str:
        for token in tokenizer.all_special_tokens:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    return broken_up
