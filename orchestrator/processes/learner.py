"""The learner as a process of a run, one of its ranks: teachers, way of computing and initial state, then the loop."""

import os
from functools import partial
from typing import Any

from learner.learner import Learner
from learner.measured_tuning import tune
from learner.optimizers import build_optimizer
from learner.rendezvous import meet
from learner.training_arrays import to_train_state
from learner.tuning import choose_device
from orchestrator.processes.context import Context
from orchestrator.teachers.pretrained_encoder import read_torso
from teacher_store.store.store import TeacherStore
from teacher_store.teacher import Teacher, load_teacher

_LEAST_ANSWER_SECONDS = 60.0


def build_learner(context: Context) -> Learner:
    """The loop of one rank, once the shards and all other ranks are there.

    Raises: UserError or CorruptDataError if a teacher cannot be used; RankLost if the ranks do not meet.
    """
    config, device = context.config, choose_device(context.config.learner.device)
    policies = [known for known in context.teachers if known.get("kind") != "experience"]
    stores = [TeacherStore(str(known["store"])) for known in policies]
    teachers = [
        load_teacher(store.get(known["id"]), store, device, env=config.env)
        for known, store in zip(policies, stores, strict=True)
    ]
    encoder = context.manifest.get("encoder")
    context.await_shards()  # not before the imports: they take as long as the shards do
    context.metrics.waits.waiting("ranks" if config.learner.ranks > 1 else "start", "its parts are being built")
    ranks = meet(
        context.folder,
        rank=context.index,
        size=config.learner.ranks,
        host=context.host,
        device=device,
        stop=context.stop,
        answer_seconds=max(config.cluster.heartbeat_timeout_seconds, _LEAST_ANSWER_SECONDS),
    )
    context.resources.enter_context(ranks)
    context.metrics.waits.waiting("start", "it measures how to compute, and builds its networks")
    tuning = tune(config, context.spec, context.folder, device, ranks, cores=os.cpu_count() or 1)
    return Learner(
        config,
        context.spec,
        folder=context.folder,
        replay=context.replay("learner"),
        teachers=teachers,
        metrics=context.metrics,
        stop=context.stop,
        tracker=context.tracker,
        ranks=ranks,
        tuning=tuning,
        initial_state=_restored(context, teachers, stores),
        initial_torso=None if encoder is None else partial(read_torso, encoder),
    )


def _restored(context: Context, teachers: list[Teacher], stores: list[TeacherStore]) -> dict[str, Any] | None:
    """The teacher's own training state, where the run goes on with its optimizer."""
    config = context.config
    if config.teacher is None or config.teacher.optimizer != "restored":
        return None
    network = teachers[0].network
    optimizer = build_optimizer(network.parameters(), config.learner)
    return to_train_state(stores[0].training_state(teachers[0].record), network, optimizer)
