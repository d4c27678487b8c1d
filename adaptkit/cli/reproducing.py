"""reproduce: a published recipe, its figure, and ours beside it. No torch until a run starts.

A figure is compared only with runs of the same base model, rows and settings. What may differ is
where and how a run is carried out (`ASIDE`), and how its batches are cut, not their size.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptkit.cli.parser import command
from adaptkit.cli.tuning import number
from adaptkit.config.compose import compose_job
from adaptkit.config.groups import CONF
from adaptkit.config.settings import Settings, settings
from adaptkit.errors import AdaptError, ConfigError, MachineError, at_least, did_you_mean
from adaptkit.reports.published import Figure, figures, no_start, obstacles, other_model, score_of
from adaptkit.runs.directory import IRRELEVANT, flat
from adaptkit.runs.record import RunResult
from adaptkit.storage.files import processes
from adaptkit.terminal import console
from adaptkit.train import carry_out, checked, finished, here, in_child

FAILED, OUTSIDE = 1, 3  # exit statuses: a run failed; ours is not within the tolerance
TAKEN = ("seed", "output_dir", "experiment")  # words that the command sets itself
BATCH = ("trainer.batch_size", "trainer.gradient_accumulation")  # their product is what matters
# Settings that say where and how a run is carried out; `obstacles` judges rows and models.
ASIDE = (
    *IRRELEVANT, *BATCH, "seed", "data.root", "data.source", "task.path", "model.name",
    "model.path", "model.revision", "model.from_run", "trainer.device", "trainer.precision",
    "trainer.fast", "trainer.compile", "trainer.features", "trainer.eval_batch_size",
    "trainer.max_tokens", "trainer.checkpoint_every", "trainer.gradient_checkpointing",
)  # fmt: skip
Done = tuple[RunResult, Path]


def reproduce_(arguments: list[str]) -> int:
    """`adaptkit reproduce [NAME [OVERRIDES]] [--seeds N] [--hours H] [--out DIR]`."""
    parser = command("reproduce", "Run a published recipe and compare it with its figure.")
    parser.add_argument("name", nargs="?", help="a recipe; without one, all are listed")
    parser.add_argument("overrides", nargs="*", default=[], help="as for adaptkit train")
    parser.add_argument("--seeds", type=number, default=1, metavar="N", help="runs: seeds 0 to N-1")
    parser.add_argument("--hours", type=float, default=24.0, metavar="H",
                        help="longest estimate of training that is begun; default: 24")  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder of the runs; default: as adaptkit train")
    args = parser.parse_intermixed_args(arguments)
    if args.name is None:
        listing()
        return 0
    at_least("--hours", args.hours, 0)
    name = args.name.removeprefix("paper/")
    if name not in figures():
        raise ConfigError(f"{name}: is not a recipe; {did_you_mean(name, figures())}"
                          "adaptkit reproduce lists them.")  # fmt: skip
    check_words(args.overrides)
    figure, recipe = figures()[name], made(name, [], 0, None)
    jobs = [made(name, args.overrides, seed, args.out) for seed in range(args.seeds)]
    show(name, figure)
    reasons = [figure.differs] if figure.differs else []
    reasons += changed(recipe.plain, jobs[0].plain, figure)
    if reasons:
        console.say(f"the figure will not apply to these runs: {'; '.join(reasons)}")
    outcomes = carried_out(name, jobs, None if reasons else figure, args.hours)
    return compared(figure, outcomes, reasons, len(jobs))


def listing() -> None:
    """Print every recipe with its figure."""
    width = max(map(len, figures()))
    for name, figure in figures().items():
        model = figure.model.rpartition("/")[2]
        console.show(f"{name:{width}}  {figure.task}, {model}: {theirs(figure)}")
    console.show(
        "\nadaptkit reproduce NAME runs one. adaptkit list experiment paper/NAME shows it."
    )


def theirs(figure: Figure) -> str:
    """Return the published figure in words."""
    spread = "" if figure.spread is None else f" ± {figure.spread:g}"
    runs = {None: "an unstated number of runs", 1: "one run"}.get(
        figure.runs, f"{figure.runs} runs"
    )
    of = f"{figure.statistic} of {runs}" if figure.runs != 1 else runs
    return f"{figure.metric} {figure.value:g}{spread} ({of})"


def show(name: str, figure: Figure) -> None:
    """Print a recipe with its sources, and its figure."""
    file = CONF / "experiment" / "paper" / f"{name}.yaml"
    console.show(file.read_text(encoding="utf-8"))
    rows = f"{figure.rows['train']:,} training and {figure.rows['validation']:,} validation rows"
    part = f", of which the {figure.part} was scored" if figure.part else ""
    console.show(f"theirs: {theirs(figure)}")
    console.show(f"  {figure.model} on {figure.task}, {rows}{part}")
    console.show(f"  source: {figure.source}")
    console.show(f"  tolerance: {figure.tolerance:g} ({figure.tolerance_source})")


def check_words(overrides: Sequence[str]) -> None:
    """Reject overrides that the command sets itself.

    Raises:
        ConfigError: it names the word.
    """
    for word in overrides:
        key = word.partition("=")[0].lstrip("+~")
        if key in TAKEN:
            way_out = {"seed": "Use --seeds N", "output_dir": "Use --out DIR"}
            raise ConfigError(f"{word}: is set by the command. {way_out.get(key, 'Leave it out')}.")


def made(name: str, overrides: Sequence[str], seed: int, out: Path | None) -> Settings:
    """Return the settings of one run of a recipe."""
    words = [f"experiment=paper/{name}", *overrides, f"seed={seed}"]
    if out is not None:
        quoted = str(out.absolute() / f"seed{seed}").replace("\\", "\\\\").replace("'", "\\'")
        words.append(f"output_dir='{quoted}'")
    return settings(compose_job(words))


def changed(recipe: Mapping[str, Any], job: Mapping[str, Any], figure: Figure) -> list[str]:
    """Return the settings in which a run is another one than the recipe's."""
    before, now = flat(recipe), flat(job)
    keys = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    kept = [k for k in keys if k not in ASIDE and not k.startswith("model.architecture")]
    found = [f"{key}={now.get(key)} instead of {before.get(key)}" for key in kept]
    if figure.starts_from and now.get("model.from_run") is None:
        found.append(no_start(figure))
    rows = [[plain[key] for key in BATCH] for plain in (before, now)]
    if rows[0][0] * rows[0][1] != rows[1][0] * rows[1][1]:
        found.append(f"{rows[1][0] * rows[1][1]} rows of an update instead of "
                     f"{rows[0][0] * rows[0][1]}")  # fmt: skip
    return [*other_model(str(now.get("model.path")), figure.model), *found]


def carried_out(
    name: str, jobs: Sequence[Settings], figure: Figure | None, hours: float
) -> list[Done]:
    """Return the runs, those that were done before included; one that fails is left out.

    figure: that the runs are for; None: they are known to be others than the published ones.

    Raises:
        AdaptError: the recipe cannot be run here; nothing was begun.
    """
    try:
        done = {job.seed: finished(job) for job in jobs}
        waiting = [job for job in jobs if done[job.seed] is None]
        if waiting:
            check_reach(waiting, figure, hours)
    except MachineError:
        raise
    except AdaptError as error:
        raise AdaptError(
            f"{name} cannot be run here: {str(error).rstrip('.')}. Without these checks: adaptkit "
            f"train experiment=paper/{name}"
        ) from error
    found: list[Done] = []
    apart = len(waiting) > 1 and processes() == 1  # not under torchrun
    for job in jobs:
        if result := done[job.seed]:
            console.result(result, job.output_dir)
        else:
            outcome = carry_out(job.typed, in_child if apart else here)
            outcome.check_interrupted()
            if outcome.error:
                console.error(f"seed {job.seed} failed: {outcome.error}")
            if outcome.status == 1:  # of the machine or the program: the other seeds would as well
                break
            result = outcome.result
        if result:
            found.append((result, job.output_dir))
    return found


def check_reach(jobs: Sequence[Settings], figure: Figure | None, hours: float) -> None:
    """Check that runs can be carried out: weights, rows, memory, hours.

    Raises:
        AdaptError: they cannot.
    """
    job = checked(jobs[0].typed)
    if figure and job.task.origin(job.data).kind == "sample":
        raise AdaptError(
            f"the rows of {job.task.name} are here only as the bundled SAMPLE, whose scores cannot "
            "be compared. Set data.root=DIR"
        )
    with console.working() as interface:
        from adaptkit.terminal.reach import check

        check(job, len(jobs), hours, figure.rows if figure else {}, interface.say)


def compared(figure: Figure, outcomes: Sequence[Done], reasons: Sequence[str], wanted: int) -> int:
    """Print ours, and how it compares with theirs; return the exit status."""
    failed = FAILED if len(outcomes) < wanted else 0
    if failed:
        console.show(f"{len(outcomes)} of {wanted} runs are done")
    if not outcomes:
        return failed
    found = list(
        dict.fromkeys(
            [*reasons, *(one for result, _ in outcomes for one in obstacles(result, figure))]
        )
    )
    scores = [score_of(result, directory, figure) for result, directory in outcomes]
    if found:
        known = [result.score for result, _ in outcomes if result.score is not None]
        if known:
            console.show(f"ours:   {outcomes[0][0].metric} {summary(known, 'mean')}")
        console.show("not comparable: the figure does not apply to these runs")
        for reason in found:
            console.show(f"  {reason}")
        return failed
    known = [score for score in scores if score is not None and score == score]
    if len(known) < len(scores):
        console.show(f"{len(scores) - len(known)} of {len(scores)} runs have no {figure.metric}")
        if not known:
            return failed or OUTSIDE
    console.show(f"ours:   {figure.metric} {summary(known, figure.statistic)}")
    value = taken(known, figure.statistic)
    apart = value - figure.value
    within = abs(apart) <= figure.tolerance
    word = "within tolerance" if within else ("above" if apart > 0 else "below")
    console.show(f"{word}: ours - theirs = {apart:+.4f}, tolerance {figure.tolerance:g}")
    return failed or (0 if within and len(known) == len(scores) else OUTSIDE)


def taken(scores: Sequence[float], statistic: str) -> float:
    """Return the mean, the median or the greatest of some scores."""
    if statistic == "max":
        return max(scores)
    return statistics.median(scores) if statistic == "median" else statistics.fmean(scores)


def summary(scores: Sequence[float], statistic: str) -> str:
    """Return some scores in words."""
    if len(scores) == 1:
        return f"{scores[0]:.4f} (one run: no standard deviation)"
    mean = "" if statistic == "mean" else f"mean {statistics.fmean(scores):.4f}, "
    return (f"{taken(scores, statistic):.4f} ({statistic} of {len(scores)} runs; {mean}standard "
            f"deviation {statistics.stdev(scores):.4f})")  # fmt: skip
