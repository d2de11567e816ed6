"""Rules that tie fields of different sections together: what they forbid would fail, or wait for ever, hours later."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from upcycle.config import RunConfig


def check_run(config: "RunConfig", phases_in_order: Sequence[str]) -> None:
    """Raises ValueError, naming the fields and the remedy, for a run that could not work."""
    if not config.phases or list(config.phases) != [phase for phase in phases_in_order if phase in config.phases]:
        raise ValueError(f"phases must be a selection of {', '.join(phases_in_order)} in that order, each once")
    if config.teacher is None and set(config.phases) & {"offline", "online"}:
        raise ValueError("the phases offline and online need a [teacher]; set phases=rl to train from scratch")
    replay, learner = config.replay, config.learner
    if learner.n_step > replay.max_n_step:
        raise ValueError(
            f"learner.n_step is above replay.max_n_step ({replay.max_n_step}): chunks would not reach that far; "
            "raise the latter"
        )
    if replay.min_size_to_sample > replay.capacity_steps:
        raise ValueError(
            "replay.min_size_to_sample is above replay.capacity_steps: sampling would never begin (deadlock); "
            "lower the one or raise the other"
        )
    requested = learner.batches_per_request * learner.requests_in_flight
    in_flight = learner.batch_size * (learner.prefetch_batches + requested)
    if replay.error_buffer_steps * replay.samples_per_insert < in_flight:
        raise ValueError(
            "replay.error_buffer_steps x replay.samples_per_insert is below the samples in flight "
            "(learner.batch_size x (learner.prefetch_batches + learner.batches_per_request x "
            f"learner.requests_in_flight) = {in_flight}): "
            "inserting and sampling would wait for each other (deadlock); raise replay.error_buffer_steps"
        )
