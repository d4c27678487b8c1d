"""The examples of a split. Those of many rows are kept in the cache folder: see storage.cache.

Their key is a digest of the rows, of the form with its settings, and of all that the form may know
of the model: its tokenizer with the whole vocabulary, and its limits.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pyarrow
from datasets import Dataset

from adaptkit.storage import cache
from adaptkit.tasks.task import Form, Reader

SMALLEST = 1 << 18  # bytes of rows; tokenising less takes hardly longer than the digest
LARGEST = 1 << 29  # the same; of more the entry would drive out all others


def encoded(form: Form, rows: Dataset, reader: Reader) -> Dataset:
    """Return what `form.encode` makes of rows, from the cache folder if it was made before.

    Raises:
        AdaptError: a row cannot be put to this model.
    """
    key, size = None, rows.data.nbytes * len(rows) / max(1, rows.data.num_rows)
    if SMALLEST <= size <= LARGEST:
        known = replace(reader, tokenizer=described(reader.tokenizer))
        content = hashlib.sha256(stream(table_of(rows).replace_schema_metadata(None))).hexdigest()
        key = cache.key_of("examples", content, str(rows.features), form, known)
    if key is None:
        return form.encode(rows, reader)
    kept = cache.read(key)
    if kept is not None:
        return Dataset(pyarrow.ipc.open_stream(kept).read_all(), fingerprint=key)
    examples = form.encode(rows, reader)
    kinds = examples.features.arrow_schema.metadata
    cache.write(key, stream(table_of(examples).replace_schema_metadata(kinds)))
    return examples


def table_of(rows: Dataset) -> pyarrow.Table:
    """Return the chosen rows in their order, without the others of the file."""
    return rows.with_format("arrow")[:]


def stream(table: pyarrow.Table) -> memoryview:
    """Return the bytes of a table, whichever pieces of others it is made of."""
    rows = pyarrow.array(range(len(table)))
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.take(rows).combine_chunks())
    return memoryview(sink.getvalue())


def described(tokenizer: Any) -> Any:
    """Return all that a fast tokenizer does as plain data; another kind as it is."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return tokenizer
    plain = json.loads(backend.to_str())
    plain |= {"truncation": None, "padding": None}  # of its last call
    return [type(tokenizer).__name__, repr(tokenizer), tokenizer.model_input_names, plain]
