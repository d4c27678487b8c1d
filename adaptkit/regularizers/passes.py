"""What penalties share that pass a batch through the model a second time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adaptkit.adaptation import Adaptation, Context
from adaptkit.errors import AdaptError

if TYPE_CHECKING:
    from adaptkit.tasks.task import Form


def form_of(name: str, start: Adaptation, context: Context) -> Form:
    """Return the form of the task as the method has wrapped it.

    Raises:
        AdaptError: the model reads features that are computed once.
    """
    if start.features is not None:
        raise AdaptError(
            f"regularizer={name}: passes every batch through the model twice, and this method "
            "computes its features once. Choose another method, for example method=lora."
        )
    form = context.required_form
    return start.form(form) if start.form else form
