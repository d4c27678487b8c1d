"""AdaLoRA: a budget of ranks goes where it matters (Zhang et al. 2023, arXiv:2303.10512).

    y = W x + b + s B diag(E) A dropout(x),   A [r, in], E [r], B [out, r],   s = alpha / r

Every map starts with r = `rank` triplets (E_i, A_i, B_i). From update `t_init` on, the least
important triplets of all maps together are set to E_i = 0, along a cubic schedule. `t_final`
updates before the end, `target_rank` times the number of maps are left, and those stay. They are
chosen every `every` updates by smoothed sensitivity times uncertainty of E, A and B. The penalty
`orthogonality` keeps A A^T and B^T B near the identity; it is logged apart from the task's loss.
Pruned triplets stay in the saved tensors, with E_i = 0. The saved weights always have exactly the
target's number, also if training ended early or weights from before the last pruning were best.

Count: the sum of r (in + out + 1) over the adapted maps, r the initial rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from adaptkit.adaptation import Adaptation, Context
from adaptkit.errors import at_least, invalid, within
from adaptkit.methods.checks import check_low_rank
from adaptkit.methods.size import Size
from adaptkit.models.anatomy import sites
from adaptkit.models.body import device_of

if TYPE_CHECKING:
    from adaptkit.layers.adalora import Schedule, Triplets
    from adaptkit.models.anatomy import Site


@dataclass(frozen=True)
class AdaLoRA:
    """Train `rank` triplets per map and keep `target_rank` on average."""

    sized_by: ClassVar[Size] = Size("rank", along=("target_rank",))
    rank: int = 12  # triplets per map at the start
    target_rank: int = 8  # triplets per map at the end, on average
    alpha: float = 32.0  # scale of the update: alpha / rank
    dropout: float = 0.0  # on the input of the low-rank branch
    roles: tuple[str, ...] = ("all",)  # maps that are adapted
    t_init: float = 0.1  # updates before pruning starts; below 1: share of all
    t_final: float = 0.3  # updates after pruning ends; below 1: share of all
    every: int = 10  # updates between two pruning steps
    beta1: float = 0.85  # smoothing of the sensitivity
    beta2: float = 0.85  # smoothing of the uncertainty
    orthogonality: float = 0.1  # strength of the penalty

    def __post_init__(self) -> None:
        check_low_rank(self.rank, self.alpha, self.dropout, self.roles)
        at_least("method.target_rank", self.target_rank, 1)
        if self.rank < self.target_rank:
            raise invalid("method.rank", self.rank,
                          f"must be method.target_rank={self.target_rank} or more")  # fmt: skip
        at_least("method.t_init", self.t_init, 0)
        at_least("method.t_final", self.t_final, 0)
        if max(self.t_init, self.t_final) < 1 <= self.t_init + self.t_final:
            raise invalid("method.t_final", self.t_final, "with t_init leaves no updates to prune")
        at_least("method.every", self.every, 1)
        within("method.beta1", self.beta1, 0, 1)
        within("method.beta2", self.beta2, 0, 1)
        at_least("method.orthogonality", self.orthogonality, 0)

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Attach triplets to every map in `roles`, with the hook that shares out the budget.

        Raises:
            AdaptError: a role matches nothing in this family, or the rank exceeds a matrix's.
        """
        from adaptkit.layers.adalora import Budget, Triplets, orthogonality
        from adaptkit.layers.low_rank import attach_updates, check_rank

        model, device, scale = start.model, device_of(start.model), self.alpha / self.rank
        maps: list[Triplets] = []

        def build(site: Site) -> Triplets:
            rank = check_rank(self.rank, site)
            maps.append(Triplets(site, rank, scale, self.dropout, context.generator, device))
            return maps[-1]

        merge = attach_updates(model, sites(model, self.roles), build)
        schedule = self.schedule(len(maps), context.total_updates)
        budget = Budget(maps, schedule, self.beta1, self.beta2)
        return start.added(".lora.", merge).plus(
            penalty={"orthogonality": orthogonality(maps, self.orthogonality)},
            after_update=budget,
            finish=budget.finish,
        )

    def schedule(self, maps: int, total: int) -> Schedule:
        """Return the schedule of `maps` maps over `total` updates; it ends within the run."""
        from adaptkit.layers.adalora import Schedule

        first, last = (int(t) if t >= 1 else round(t * total) for t in (self.t_init, self.t_final))
        end = max(1, total - last)
        initial, target = maps * self.rank, maps * self.target_rank
        return Schedule(initial, target, min(first, end), end, self.every)
