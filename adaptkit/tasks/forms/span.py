"""The span form: the answer to a question is a part of a text, between two marked tokens.

    score(i, j) = S_i + E_j,   i <= j < i + longest answer,   S, E [T] from a head with two outputs

A text that is longer than the model reads is cut into windows that overlap by `stride` tokens. In
training a window without the whole answer is answered by its first token (CLS), as are questions
without an answer (Devlin et al. 2019, arXiv:1810.04805). Of all windows of a row the best span is
the answer: a slice of the row's own text. With `unanswerable` every answer also says by how much
"no answer" beats it, the least over the windows (Rajpurkar et al. 2018, arXiv:1806.03822).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from adaptkit.adaptation import Batch
from adaptkit.errors import AdaptError
from adaptkit.tasks.forms.padding import check_separator, encoded, padded_inputs, plain_text
from adaptkit.tasks.reading.ids import row_name
from adaptkit.tasks.task import LABEL, Answer, Form, Reader

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor, nn


@dataclass(frozen=True)
class SpanForm(Form):
    """A question and a text in, a part of the text out."""

    question: str  # column
    context: str  # column
    max_length: int  # tokens of a window, question and special ones included
    stride: int  # tokens by which neighbouring windows overlap
    longest: int  # tokens of an answer
    candidates: int  # best starts and best ends of a window that are combined
    unanswerable: bool = False  # a text may hold no answer
    threshold: float = 0.0  # by which "no answer" must beat the best span
    only_answered: bool = False  # train on windows that hold the answer, and on no others

    head: ClassVar[str] = "span"
    outputs: ClassVar[int] = 2
    one_to_one: ClassVar[bool] = False  # a long text gives several windows

    def encode(self, rows: Dataset, reader: Reader) -> Dataset:
        """Return windows: tokens, row, where the text's tokens stand, and the answer's, if known.

        Raises:
            AdaptError: a question leaves no room for the text.
        """
        check_separator(reader.tokenizer)

        def examples(batch: dict[str, list], indices: list[int]) -> dict[str, list]:
            self._check_room(batch[self.question], rows, indices, reader)
            return self.windows(batch, indices, reader)

        return encoded(rows, examples, batch_size=200)

    def rooms(self, questions: Sequence[str], reader: Reader) -> list[tuple[int, int]]:
        """Return the tokens of every question, and how many it leaves for the text, 0 or more."""
        tokenizer, longest = reader.tokenizer, reader.length(self.max_length)
        plain, special = plain_text(tokenizer), tokenizer.num_special_tokens_to_add(pair=True)
        asked = tokenizer(
            [plain(text.lstrip()) for text in questions], add_special_tokens=False,
            split_special_tokens=True,
        )["input_ids"]  # fmt: skip
        return [(len(ids), max(longest - len(ids) - special, 0)) for ids in asked]

    def _check_room(
        self, questions: Sequence[str], rows: Dataset, indices: Sequence[int], reader: Reader
    ) -> None:
        longest = reader.length(self.max_length)
        for index, (size, room) in zip(indices, self.rooms(questions, reader), strict=True):
            if room <= self.stride:
                most = "Raise task.max_length, lower"
                if longest < self.max_length:
                    most = f"Lower (this model reads {longest} tokens at once)"
                raise AdaptError(
                    f"{row_name(rows, index)}: its question has {size} tokens, and leaves "
                    f"room for {room} of the text. That must be more than task.stride="
                    f"{self.stride}. {most} task.stride, or drop the row."
                )

    def windows(self, rows: dict[str, list], indices: list[int], reader: Reader) -> dict[str, list]:
        """Return the windows of some rows, as columns."""
        tokenizer, contexts = reader.tokenizer, rows[self.context]
        plain = plain_text(tokenizer)
        places = [places_in(plain(text), text) for text in contexts]
        tokens = tokenizer(
            [plain(question.lstrip()) for question in rows[self.question]],
            [plain(text) for text in contexts],
            truncation="only_second", max_length=reader.length(self.max_length),
            stride=self.stride, return_overflowing_tokens=True, return_offsets_mapping=True,
            return_attention_mask=False, split_special_tokens=True,
        )  # fmt: skip
        windows: list[dict[str, Any]] = []
        owners = tokens["overflow_to_sample_mapping"]
        for number, (owner, ids) in enumerate(zip(owners, tokens["input_ids"], strict=True)):
            inside = [i for i, part in enumerate(tokens.sequence_ids(number)) if part == 1]
            spans = [tokens["offset_mapping"][number][i] for i in inside]
            starts, ends = ([places[owner][span[side]] for span in spans] for side in (0, 1))
            begin, end = (starts[0], ends[-1]) if inside else (0, 0)
            window = {
                "input_ids": ids, "length": len(ids), "row": indices[owner],
                "first": inside[0] if inside else 0, "null": null_place(ids, tokenizer),
                "text": contexts[owner][begin:end],
                "starts": [place - begin for place in starts],
                "ends": [place - begin for place in ends],
            }  # fmt: skip
            if "token_type_ids" in tokens:
                window["token_type_ids"] = tokens["token_type_ids"][number]
            if LABEL in rows:
                window["target"] = target_of(window, rows[LABEL][owner], begin)
            windows.append(window)
        return {name: [window[name] for window in windows] for name in windows[0]}

    def prepare(self, examples: Dataset, load_base: Callable[[], nn.Module]) -> Dataset:
        """Leave out windows without the answer, if asked; never of rows that are scored."""
        return examples.select(with_answers(examples)) if self.only_answered else examples

    def collate(self, examples: Sequence[Mapping[str, Any]], reader: Reader) -> Batch:
        """Return inputs [B, T], and targets [B, 2]: the first and last token of the answer."""
        import torch

        names = ("first", "null", "text", "starts", "ends")
        targets: dict[str, Any] = {name: [example[name] for example in examples] for name in names}
        inputs = padded_inputs(examples, reader.tokenizer)
        rows = [example["row"] for example in examples]
        if "target" not in examples[0]:
            return Batch(inputs, targets, rows, 0)
        targets["target"] = torch.tensor([example["target"] for example in examples])
        targets["size"] = torch.tensor([len(example["input_ids"]) for example in examples])
        return Batch(inputs, targets, rows, len(rows))

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the summed loss: of each window the mean of its start's and its end's.

        Padding has no share of the probability, so that a window's loss is its own.
        """
        from torch.nn.functional import cross_entropy

        found, target = self.compared(outputs, batch), batch.targets["target"]
        return cross_entropy(found, target.T.flatten(), reduction="sum") / 2

    def compared(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the logits of the starts, then those of the ends, [2 B, T]."""
        import torch

        size = batch.targets["size"]
        padding = torch.arange(outputs.start_logits.shape[1], device=size.device) >= size[:, None]
        both = (outputs.start_logits, outputs.end_logits)
        return torch.cat([one.float().masked_fill(padding, float("-inf")) for one in both])

    def predict(self, model: nn.Module, outputs: Any, batch: Batch, reader: Reader) -> list[Answer]:
        """Return of every window its best span with its score, and the score of no answer."""
        t = batch.targets
        starts, ends = outputs.start_logits.float().cpu(), outputs.end_logits.float().cpu()
        found = []
        for i, (first, null) in enumerate(zip(t["first"], t["null"], strict=True)):
            inside = slice(first, first + len(t["starts"][i]))
            best = self.best(starts[i, inside], ends[i, inside])
            none = float(starts[i, null] + ends[i, null])
            if best is None:
                found.append((none, none, ""))  # an empty text: no score is a number
            else:
                score, one, other = best
                text = t["text"][i][t["starts"][i][one] : t["ends"][i][other]]
                found.append((none, score, text.strip()))  # some pieces begin with a blank
        return found

    def best(self, starts: Tensor, ends: Tensor) -> tuple[float, int, int] | None:
        """Return score, first and last token of the best span, of starts and ends [W] of a text.

        Only the best starts and ends are combined; if none of them fit together, all are.
        """
        width = len(starts)
        if not width:
            return None
        for count in (min(self.candidates, width), width):
            (high, first), (tall, last) = starts.topk(count), ends.topk(count)
            length = last[None] - first[:, None] + 1
            scores = high[:, None] + tall[None]
            scores[(length < 1) | (length > self.longest)] = float("-inf")
            place = int(scores.argmax())
            if scores.flatten()[place] > float("-inf"):
                break
        i, j = divmod(place, count)
        return float(scores[i, j]), int(first[i]), int(last[j])

    def answers(self, predicted: Sequence[Answer], rows: Sequence[int]) -> list[Answer]:
        """Return per row the best span of its windows, a text.

        If there may be none: `answer` (empty for none), the best `span`, and `no_answer`, by how
        much the score of none beats that of the span.
        """
        made = self.detailed(predicted, rows)
        if self.unanswerable:
            return [{name: one[name] for name in ("answer", "span", "no_answer")} for one in made]
        return [one["answer"] for one in made]

    def detailed(self, predicted: Sequence[Answer], rows: Sequence[int]) -> list[dict[str, Any]]:
        """Return the answers as objects with the score of the span, its start's and end's logit."""
        nulls: dict[int, float] = {}
        spans: dict[int, tuple[float, str]] = {}
        for row, (null, score, text) in zip(rows, predicted, strict=True):
            nulls[row] = min(null, nulls.get(row, float("inf")))
            if row not in spans or score > spans[row][0]:
                spans[row] = (score, text)
        made: list[dict[str, Any]] = []
        for row in sorted(spans):
            score, text = spans[row]
            one: dict[str, Any] = {"answer": text}
            if self.unanswerable:
                margin = nulls[row] - score
                answer = "" if margin > self.threshold else text
                one = {"answer": answer, "span": text, "no_answer": margin}
            made.append({**one, "score": score})
        return made


def target_of(window: Mapping[str, Any], label: Mapping[str, Any], begin: int) -> list[int]:
    """Return the first and last token [2] of the first right answer found, or twice that of none.

    `begin`: where in the row's text the window begins.
    """
    starts, ends, none = window["starts"], window["ends"], [window["null"]] * 2
    pairs = zip(label["text"], label["answer_start"], strict=True)
    found = next(((text, place) for text, place in pairs if place >= 0), None)
    if not found or not starts:
        return none
    text, place = found
    start = place - begin + len(text) - len(text.lstrip())
    end = start + len(text.strip())
    if starts[0] > start or ends[-1] < end:
        return none
    # Pieces of one letter share its characters, so that several may begin or end there.
    first = max(i for i, place in enumerate(starts) if place <= start)
    last = min(i for i, place in enumerate(ends) if place >= end)
    return [window["first"] + first, window["first"] + max(first, last)]


def with_answers(windows: Dataset) -> list[int]:
    """Return the numbers of the windows that hold an answer; of a row without one of all."""
    targets, nulls, rows = windows["target"][:], windows["null"][:], windows["row"][:]
    holds = [target[0] != null for target, null in zip(targets, nulls, strict=True)]
    answered = {row for row, yes in zip(rows, holds, strict=True) if yes}
    return [i for i, yes in enumerate(holds) if yes or rows[i] not in answered]


def null_place(ids: Sequence[int], tokenizer: Any) -> int:
    """Return the token that stands for no answer: CLS, the beginning, or the first token."""
    for special in (tokenizer.cls_token_id, tokenizer.bos_token_id):
        if special in ids:
            return ids.index(special)
    return 0


def places_in(broken: str, text: str) -> Sequence[int]:
    """Return for the characters of a text with broken-up special tokens their place in `text`."""
    if broken == text:
        return range(len(text) + 1)
    places, at = [], 0
    for sign in broken:
        places.append(at)
        if at < len(text) and text[at] == sign:  # else it is a blank that was put in
            at += 1
    return [*places, len(text)]
