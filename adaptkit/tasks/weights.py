"""task.class_weights: how much each class counts in the loss.

balanced     rows / (classes x rows of the class), over the training rows; words for tags
[1,5]        in the order of the classes
{spam: 5}    by name; a class that is not named has the weight 1
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from adaptkit.errors import ConfigError, above, invalid, one_of, unknown

BALANCED = "balanced"
Weights = str | tuple[float, ...] | dict[str | int, float] | None


def check_weights(weights: Weights, classes: Sequence[str]) -> None:
    """Check weights as they are typed; `classes`: none if they are not known yet.

    Raises:
        ConfigError: a weight is not above 0, or they do not fit the classes.
    """
    if isinstance(weights, str):
        one_of("task.class_weights", weights, (BALANCED,))
    elif isinstance(weights, tuple):
        for weight in weights:
            above("task.class_weights", weight, 0)
        if classes and len(weights) != len(classes):
            raise invalid(
                "task.class_weights", list(weights),
                f"must be one number for each of the {len(classes)} classes, in their order",
            )  # fmt: skip
    elif weights is not None:
        for name, weight in weights.items():
            above(f"task.class_weights.{name}", weight, 0)
            if classes and str(name) not in classes:
                raise unknown("task.class_weights", name, classes)


def check_unweighted(weights: Weights, smoothing: float) -> None:
    """Reject what the loss of texts does not read.

    Raises:
        ConfigError: there are weights, or smoothing.
    """
    for name, value in (("class_weights", weights), ("label_smoothing", smoothing)):
        if value:
            raise invalid(f"task.{name}", value, "is not read with task.form=text",
                          "Set task.form=head or task.form=cloze")  # fmt: skip


def in_order(weights: Weights, classes: Sequence[str]) -> tuple[float, ...]:
    """Return one weight per class; none if all are 1, or not known yet."""
    if isinstance(weights, Mapping):
        named = {str(name): weight for name, weight in weights.items()}
        return tuple(named.get(name, 1.0) for name in classes)
    return weights if isinstance(weights, tuple) else ()


def reordered(weights: Weights, before: Sequence[str], after: Sequence[str]) -> Weights:
    """Return weights for the same classes in another order; `before`: none if not known."""
    if not (before and isinstance(weights, tuple)):
        return weights
    of = dict(zip(before, weights, strict=True))
    return tuple(of[name] for name in after)


def balanced(classes: Sequence[str], labels: Sequence[Hashable]) -> tuple[float, ...]:
    """Return rows / (classes x rows of the class); a class without a row has the weight 1."""
    counts = {name: 0 for name in classes}
    for label in labels:
        counts[str(label)] += 1
    there = sum(count > 0 for count in counts.values())
    return tuple(len(labels) / (there * n) if n else 1.0 for n in counts.values())


def no_training_rows() -> ConfigError:
    """Return the error for weights that nothing can be counted for."""
    return invalid(
        "task.class_weights", BALANCED, "needs training rows, and none are read here",
        "Give one number per class",
    )  # fmt: skip
