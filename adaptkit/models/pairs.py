"""A separator between two texts, where a tokenizer puts none.

GPT-2, GPT-NeoX and Qwen tokenizers join the pieces of a pair: ("he is not", " guilty") and
("he is", " not guilty") are the same tokens then. A delimiter token between them, as in GPT
(Radford et al. 2018, section 3.3), keeps pairs apart. It is the separator of the tokenizer if it
has one, and else its end-of-text token: no text can hold it, unlike a line break, and its
embedding is trained.

    single   A
    pair     A <|endoftext|> B

It is part of the tokenizer, so that an exported model reads pairs in the same way.
"""

from __future__ import annotations

from tokenizers import processors
from transformers import PreTrainedTokenizerBase


def separate_pairs(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a tokenizer a separator for pairs, unless it puts one there; without a token a newline.

    A tokenizer that has no token for it, or is pure Python, stays as it is: forms reject its pairs.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not joins_pairs(tokenizer):
        return
    token = tokenizer.sep_token or tokenizer.eos_token or "\n"
    ids = tokenizer(token, add_special_tokens=False)["input_ids"]
    if not ids:
        return
    before, after = around(tokenizer)
    special = [{"id": token, "ids": ids, "tokens": tokenizer.convert_ids_to_tokens(ids)}]
    special += [
        {"id": name, "ids": [tokenizer.convert_tokens_to_ids(name)], "tokens": [name]}
        for name in {*before, *after} - {token}
    ]
    backend.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[*before, "$A", token, "$B:1", *(f"{name}:1" for name in after)],
        special_tokens=special,
    )


def joins_pairs(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether the tokens of two texts follow each other with nothing between."""
    one, two = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in ("a", "b"))
    pair, both = tokenizer("a", "b")["input_ids"], [*one, *two]
    return any(pair[i : i + len(both)] == both for i in range(len(pair)))


def around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[str], list[str]]:
    """Return the special tokens that a tokenizer puts before and after one text."""
    read = tokenizer("a", return_special_tokens_mask=True)
    names = [str(tokenizer.convert_ids_to_tokens(number)) for number in read["input_ids"]]
    text = [place for place, special in enumerate(read["special_tokens_mask"]) if not special]
    first, last = (text[0], text[-1]) if text else (len(names), len(names))
    return names[:first], names[last + 1 :]
