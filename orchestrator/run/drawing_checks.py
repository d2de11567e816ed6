"""Runs that could never draw a batch, or end a phase before the first: refused before anything of them exists. Pure.

`upcycle.config.run` knows the configuration alone; here are the rules that need to know the environment's frames,
the form of the chunks, and what of the protocol is the teacher's.
"""

from orchestrator.processes.shard_set import ShardSet
from orchestrator.processes.table_configs import online_table
from replay_service.table.validation import check_config
from upcycle.config.run import RunConfig
from upcycle.config.teacher_use import begins_with_teacher_replay
from upcycle.errors import UserError
from upcycle.experience.chunks import ChunkSpec


def check_drawing(config: RunConfig, spec: ChunkSpec, *, frame_skip: int) -> None:
    """Raises UserError, naming field and remedy, for a run that could wait for a batch for ever.

    Args:
      spec: of the run's chunks, as the configuration has it.
      frame_skip: environment frames of an agent step.
    """
    n_step = config.learner.n_step
    if config.env.max_episode_steps < n_step:  # the teacher's, where the configuration leaves it out
        raise UserError(
            "env.max_episode_steps",
            config.env.max_episode_steps,
            f"is below learner.n_step ({n_step}): of an episode that is cut off there no transition can be drawn",
            "raise the one or lower the other",
        )
    phases = [phase for phase in config.phases if phase != "offline"]
    if not phases:
        return
    if n_step >= spec.steps:
        # The end of an episode that is cut off takes n rows of which none can be drawn: whole chunks could be such.
        raise UserError(
            "learner.n_step",
            n_step,
            f"is not below the {spec.steps} steps of a chunk, so that a table could be full of what cannot be drawn",
            "lower it or raise replay.chunk_steps",
        )
    shards = ShardSet.first(config.replay.num_shards)
    tables = [online_table(config, shards, index, width=0) for index in shards.all]
    for table in tables:
        check_config(table, spec)
    _check_buffers(config, sum(table.error_buffer_steps for table in tables))
    lacking = sum(table.min_size_to_sample for table in tables)
    if begins_with_teacher_replay(config):  # then that many are there, or few are lacking
        lacking = 0
    budget = config.online.env_frames if phases[0] == "online" else config.rl.env_frames
    if budget <= lacking * frame_skip:
        raise UserError(
            f"{phases[0]}.env_frames",
            budget,
            f"ends the phase before its first batch: with replay.min_size_to_sample={config.replay.min_size_to_sample} "
            f"sampling begins after {lacking * frame_skip} frames",
            "raise it, or lower replay.min_size_to_sample",
        )


def _check_buffers(config: RunConfig, error_buffer_steps: int) -> None:
    """Raises UserError if the shards' whole shares of the error buffer are too little for the samples in flight."""
    learner, replay = config.learner, config.replay
    batches = learner.prefetch_batches + learner.batches_per_request * learner.requests_in_flight
    if error_buffer_steps * replay.samples_per_insert < learner.batch_size * batches:
        raise UserError(
            "replay.error_buffer_steps",
            replay.error_buffer_steps,
            f"is, in whole shares of {replay.num_shards} shards and at {replay.samples_per_insert} samples per insert, "
            f"below the {learner.batch_size * batches} samples in flight: inserting and sampling would wait for each "
            "other",
            "raise it, or lower replay.num_shards",
        )
