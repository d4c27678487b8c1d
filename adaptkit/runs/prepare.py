"""From settings to an adapted base model on its device, and back from a saved delta."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase, set_seed

from adaptkit.adaptation import Adaptation, Batch, Context, Stage, quiet
from adaptkit.config.settings import Settings
from adaptkit.errors import AdaptError
from adaptkit.layers.bottom import frozen_bottom
from adaptkit.methods.chain import apply
from adaptkit.models import loading
from adaptkit.models.anatomy import family_of
from adaptkit.models.attention import heed_known_masks
from adaptkit.models.compiled import compile_steps
from adaptkit.models.fast import use_fast_kernels
from adaptkit.models.recompute import recompute_layers
from adaptkit.runs.delta import SavedRun, check_body, load_run
from adaptkit.runs.from_run import inherit, pinned, resume_delta
from adaptkit.runs.identity import model_digest
from adaptkit.tasks.task import Form, Reader
from adaptkit.training import precision
from adaptkit.training.batching import BucketSampler, Feed
from adaptkit.training.encoding import encoded
from adaptkit.training.rows import Rows
from adaptkit.training.scorer import Prepared, Scorer

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Base:
    """A base model under a task's head, before any method."""

    model: nn.Module
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    new: frozenset[str]  # names of the parameters that the task adds
    fingerprint: str
    head: str  # its values at the start: key of BEGINNINGS

    def reader(self, extra_tokens: int = 0) -> Reader:
        """Return what a form may know of it; a prompt leaves less room for the text."""
        return reader_of(self.config, self.tokenizer, extra_tokens)


def reader_of(
    config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, extra_tokens: int
) -> Reader:
    """Return what a form may know of a model; a prompt leaves less room for the text."""
    family = family_of(config.model_type)
    positions = family.positions(config)
    limit = None if positions is None else positions - extra_tokens
    start = None
    if family.encoder_decoder:
        start = config.decoder_start_token_id
        start = config.pad_token_id if start is None else start
    return Reader(tokenizer, limit, family.causal, start, positions)


def load_base(run: Settings, device: torch.device) -> Base:
    """Load a base model and its tokenizer, changed by the run that `model.from_run` names.

    Raises:
        AdaptError: they cannot be loaded, or have no head for this task.
    """
    form = run.task.posed
    config = loading.load_config(run.model, run.head, form.outputs)
    tokenizer = loading.load_tokenizer(run.model, config)
    loaded = loading.load_model(run.model, config, run.head, run.task.classes, device)
    fingerprint = pinned(loaded.fingerprint, inherit(run, loaded.model, restored))
    loaded.model.to(device)  # number formats: precision.cast
    return Base(loaded.model, config, tokenizer, loaded.head, fingerprint, loaded.begins)


def prepare(
    run: Settings,
    updates: int,
    stage: Stage,
    train: Dataset | None = None,
    counting: Callable[[str], Any] = quiet,
) -> Prepared:
    """Seed, load the base model, adapt it, and put it on its device in its number format.

    `run.task` is bound. `train`: rows that a method may look at; `counting` shows how far it is.

    Raises:
        AdaptError: the model or tokenizer cannot be loaded, or cannot be adapted in this way.
    """
    set_seed(run.seed)  # before the model is built: new heads are drawn here
    device = precision.device_of(run.trainer.device)
    number_format = precision.resolve(run.trainer.precision, device)
    frozen = precision.kept_in(run.model.dtype, number_format, stage)
    if device.type == "cuda":
        # cuDNN plans an attention anew for every length of a batch: 150 ms each on an H100, where a
        # step takes 40.
        torch.backends.cuda.enable_cudnn_sdp(False)
    base = load_base(run, device)
    form = run.task.posed
    looks_at_data: dict[str, Any] = {}
    if train is not None:
        looks_at_data["batches"] = partial(training_batches, run, base, train, device)
    context = Context(
        base.tokenizer,
        torch.Generator().manual_seed(run.seed),
        updates,
        stage,
        labels=run.task.classes,
        head=run.head,
        pooling=run.model.pooling,
        prompted=form.prompted,
        loss=partial(mean_loss, form),
        form=form,
        counting=counting,
        load_run=load_run,
        **looks_at_data,
    )
    adaptation = apply(Adaptation.of(base.model, base.new), run.methods[:1], context)
    if stage == "train":
        resume_delta(run, adaptation)
    # Regularizers pull to what they find, or mask by it: the parent's tensors, if there are any.
    adaptation = apply(adaptation, run.methods[1:], context)
    precision.cast(adaptation, number_format, frozen)
    adaptation = for_stage(run, adaptation, stage, device, number_format)
    if adaptation.form is not None:
        form = adaptation.form(form)
    reader = base.reader(adaptation.extra_tokens)
    head = base.head if base.new <= adaptation.head else "new"  # a probe replaces it
    return Prepared(adaptation, form, reader, device, number_format, base.fingerprint, head)


def for_stage(
    run: Settings, adaptation: Adaptation, stage: Stage, device: torch.device, number_format: str
) -> Adaptation:
    """Return an adaptation made ready to train, or to score as it was trained."""
    if stage == "train" and run.trainer.gradient_checkpointing:
        recompute_layers(adaptation.model)
    if stage == "train" and run.trainer.compile:
        compile_steps(adaptation.model)
    if stage == "train" and uses_fast_kernels(run, adaptation, device, number_format):
        use_fast_kernels(adaptation.model, reads_first(run, adaptation))
    elif stage == "train" and adaptation.features is None and not run.trainer.compile:
        heed_known_masks(adaptation.model)  # compiled steps read no values
    if adaptation.features is not None:  # a rebuilt run reads what its head was trained on
        adaptation.features.rounded = run.trainer.features is not None
    elif stage == "train" and run.trainer.cache_frozen == "layers":
        return replace(adaptation, features=frozen_bottom(adaptation))
    return adaptation


def uses_fast_kernels(
    run: Settings, adaptation: Adaptation, device: torch.device, number_format: str
) -> bool:
    """Tell whether training steps use adaptkit's own kernels."""
    trains = adaptation.features is None  # else the base model runs once, without gradients
    wanted = run.trainer.fast and not run.trainer.compile  # which would stop at each of them
    return wanted and trains and (device.type, number_format) == ("cpu", "bf16")


def reads_first(run: Settings, adaptation: Adaptation) -> bool:
    """Tell whether the base model's last states are read in their first place alone."""
    return run.head == "sequence" and not run.model.pooling and not adaptation.extra_tokens


def count_examples(run: Settings, rows: Dataset | None, extra_tokens: int) -> int:
    """Return how many examples the training rows give; `extra_tokens`: of a prompt, as planned.

    Raises:
        AdaptError: there are no rows, or they cannot be put to this model. No weights are loaded,
            so only one row is encoded if each gives one example.
    """
    if rows is None:
        raise AdaptError(f"task {run.task.name}: has no training rows.")
    form = run.task.posed
    config = loading.load_config(run.model, run.head, form.outputs)
    reader = reader_of(config, loading.load_tokenizer(run.model, config), extra_tokens)
    if form.one_to_one:
        form.encode(rows.select([0]), reader)
        return len(rows)
    examples = encoded(form, rows, reader)
    return len(form.prepare(examples, plain_model(run, torch.device("cpu"))))


def training_batches(
    run: Settings, base: Base, rows: Dataset, device: torch.device, size: int = 0
) -> Iterator[Batch]:
    """Yield every training row once, in batches in a seeded order, encoded when asked for.

    `size`: rows of a batch; 0: as many as in training.
    """
    form, reader = run.task.posed, base.reader()
    feed = Feed(encoded(form, rows, reader), form, reader)
    size = size or run.trainer.batch_size
    order = list(BucketSampler(feed.lengths, size, run.seed))
    for start in range(0, len(order), size):
        yield feed.batch(order[start : start + size]).to(device)


def mean_loss(form: Form, model: nn.Module, batch: Batch) -> Tensor:
    """Return the task's mean loss [] of one batch."""
    return form.loss(model(**batch.inputs), batch) / batch.weight


def feed_of(run: Settings, prepared: Prepared, rows: Dataset) -> Feed:
    """Encode rows."""
    form, reader = prepared.form, prepared.reader
    return Feed(encoded(form, rows, reader), form, reader)


def plain_model(run: Settings, device: torch.device) -> Callable[[], nn.Module]:
    """Return what loads the untouched base model, without disturbing random numbers."""

    def load() -> nn.Module:
        with torch.random.fork_rng():
            return load_base(run, device).model.eval()

    return load


def restored(saved: SavedRun) -> Prepared:
    """Load a run's base model again, adapt it, and put the trained tensors in.

    Raises:
        AdaptError: the base model is another one, or the tensors do not fit.
    """
    prepared = prepare(saved.settings, updates=1, stage="restore")
    check_body(saved, prepared.fingerprint)
    check_model_files(saved)
    try:
        prepared.adaptation.load_delta(saved.tensors)
    except AdaptError as error:
        raise AdaptError(f"{saved.directory}: {error}") from error
    return prepared


def check_model_files(saved: SavedRun) -> None:
    """Reject a base model or tokenizer whose files have changed since a run was trained.

    Raises:
        AdaptError: they have.
    """
    model = saved.settings.model
    before = saved.result.made_of.get("model") if saved.result else None
    if before is None:  # a run that just ended, or an imported one
        return
    now = model_digest(model.path, model.revision)
    if now is not None and before != now:
        raise AdaptError(
            f"{saved.directory}: the files of model.path={model.path} have changed since it was "
            "trained (weights, tokenizer or config.json). Put back those it was trained with."
        )


def scorer_of(run: Settings, prepared: Prepared, noted: Path | None = None) -> Scorer:
    """Return what scores an adapted model on the run's task; `noted`: the folder of its `Rows`."""
    return Scorer(prepared, run.task, Rows.of(run.trainer, noted))
