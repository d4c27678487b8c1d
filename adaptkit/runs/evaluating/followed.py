"""May the runs of a protocol follow a run? Known before it trains, from shapes alone."""

from __future__ import annotations

from adaptkit.config.following import pairs_of
from adaptkit.config.settings import Settings
from adaptkit.errors import AdaptError
from adaptkit.runs.plan import Plan, plan


def check_followed(run: Settings, costs: Plan) -> None:
    """Reject a run that no other can go on from, and runs that the model is not made for.

    `costs`: the run's plan.

    Raises:
        AdaptError: the method cannot be merged, or a run of the protocol cannot be built.
    """
    if run.protocol is None:
        return
    where = f"protocol={run.protocol.name}"
    if not costs.merges:
        raise AdaptError(
            f"{where}: method={run.method_name} cannot be merged into the weights, so no run on "
            "another task can go on from it. Leave the protocol out, or use method=full or lora."
        )
    built = []
    for name, pair in pairs_of(run).items():
        kind = (pair.untouched.methods, pair.untouched.head)
        # The classes of an unbound task are read off the data.
        if kind in built or not pair.untouched.task.bound:
            continue
        built.append(kind)
        try:
            plan(pair.untouched, "fp32", memory=False)
        except AdaptError as error:
            raise AdaptError(f"{where}, run {name}: {error}") from error
