"""Which tables the batches of a phase are drawn from, and how."""

import torch

from learner.batch_source import BatchSource, Replay
from learner.ranks import Ranks
from upcycle.config.run import PhaseName, RunConfig
from upcycle.experience.windows import View
from upcycle.runs.runtime import seed_for
from upcycle.runs.waits import WaitKind, WaitNote


def shares_of_phase(config: RunConfig, phase: PhaseName) -> dict[str, float]:
    """The share of each table in every batch, above 0 and summing to 1."""
    if phase == "offline":
        return {"teacher": 1.0}
    share = config.online.teacher_fraction if phase == "online" else 0.0
    return {"online": 1.0 - share, "teacher": share} if share > 0 else {"online": 1.0}


def note_wait(waits: WaitNote, source: BatchSource, phase: PhaseName | None) -> None:
    """Notes why the learner is waiting, when a batch did not come in time."""
    reason = source.last_timeout
    kind: WaitKind = "samples" if reason is None else reason.waits_for
    if kind == "samples" and phase == "offline":
        kind = "teacher"
    waits.waiting(kind, str(reason or ""))


def batches_of_phase(
    config: RunConfig,
    phase: PhaseName,
    *,
    replay: Replay,
    view: View,
    ranks: Ranks,
    device: torch.device,
    first_batch: int,
) -> BatchSource:
    """This rank's batches of a phase, from number `first_batch` on."""
    shares, learner = shares_of_phase(config, phase), config.learner
    return BatchSource(
        replay,
        shares if len(shares) > 1 else next(iter(shares)),
        batch_size=ranks.rows_per_rank(learner.batch_size),
        view=view,
        importance_sampling_exponent=config.replay.importance_sampling_exponent,
        prefetch_batches=learner.prefetch_batches,
        batches_per_request=learner.batches_per_request,
        requests_in_flight=learner.requests_in_flight,
        device=device,
        # The table does not change offline, so a batch depends on its number alone.
        seed=seed_for(config.seed, "draws", ranks.rank) if phase == "offline" else None,
        first_batch=first_batch,
    )
