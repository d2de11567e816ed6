"""Configuration of a run: one frozen tree of pydantic models, documented field by field.

Presets (TOML) and `--set section.field=value` fill it; see `upcycle.config.io`. Nothing here imports torch or ray, so
that a wrong field is refused in well under a second. Counts of interaction are in environment frames (agent steps x
frame skip), the field's unit; agent steps and learner steps say so in their names.
"""

from typing import Annotated, Self

from pydantic import Field, model_validator

from upcycle.config.design import EncoderConfig, EnvConfig, NetworkConfig, TeacherConfig
from upcycle.config.experience import ActorsConfig, GuideConfig, ReplayConfig
from upcycle.config.learning import (
    CqlConfig,
    DistillationConfig,
    LearnerConfig,
    LossTermConfig,
    LossTermName,
    MarginConfig,
    OfflineConfig,
    OnlineConfig,
    PhaseName,
    RlConfig,
)
from upcycle.config.operations import ClusterConfig, EvaluationConfig
from upcycle.config.section import WHERE_USED, Section

__all__ = [
    "PHASES",
    "ActorsConfig",
    "ClusterConfig",
    "CqlConfig",
    "DistillationConfig",
    "EncoderConfig",
    "EnvConfig",
    "EvaluationConfig",
    "GuideConfig",
    "LearnerConfig",
    "LossTermConfig",
    "MarginConfig",
    "NetworkConfig",
    "OfflineConfig",
    "OnlineConfig",
    "PhaseName",
    "ReplayConfig",
    "RlConfig",
    "RunConfig",
    "TeacherConfig",
]

PHASES: tuple[PhaseName, ...] = ("offline", "online", "rl")
"""All phases, in their order."""


class RunConfig(Section):
    """Everything about one run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = "run"
    """Name of the run and of its folder under `runs/`."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seeds every process, each in its own way."""
    phases: tuple[PhaseName, ...] = PHASES
    """Phases in order; `rl` alone trains from scratch."""
    env: EnvConfig = EnvConfig()
    """Environment and protocol."""
    network: NetworkConfig = NetworkConfig()
    """The student's network."""
    encoder: EncoderConfig = EncoderConfig()
    """A pretrained encoder."""
    teacher: TeacherConfig | None = None
    """The teacher; needed by the phases offline and online."""
    replay: ReplayConfig = ReplayConfig()
    """Replay service."""
    actors: ActorsConfig = ActorsConfig()
    """Actors."""
    guide: GuideConfig = GuideConfig()
    """A teacher that acts (JSRL)."""
    learner: LearnerConfig = LearnerConfig()
    """Learner."""
    distillation: DistillationConfig = DistillationConfig()
    """Distillation."""
    margin: MarginConfig = MarginConfig()
    """Large-margin term (DQfD)."""
    cql: CqlConfig = CqlConfig()
    """Conservative term (offline pre-training)."""
    loss_terms: Annotated[dict[LossTermName, LossTermConfig], WHERE_USED] = Field(
        default_factory=dict[LossTermName, LossTermConfig]
    )
    """Loss terms of your own."""
    offline: OfflineConfig = OfflineConfig()
    """Phase 1."""
    online: OnlineConfig = OnlineConfig()
    """Phase 2."""
    rl: RlConfig = RlConfig()
    """Phase 3."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Evaluation."""
    cluster: ClusterConfig = ClusterConfig()
    """Cluster."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_run(self)
        return self


def _check_run(config: RunConfig) -> None:
    """Raises ValueError, naming the fields and the remedy, for a run that could not work."""
    if not config.phases or list(config.phases) != [phase for phase in PHASES if phase in config.phases]:
        raise ValueError(f"phases must be a selection of {', '.join(PHASES)} in that order, each once")
    if config.teacher is None and set(config.phases) & {"offline", "online"}:
        raise ValueError("the phases offline and online need a [teacher]; set phases=rl to train from scratch")
    _check_reuse(config)
    replay, learner = config.replay, config.learner
    if learner.batch_size % learner.ranks:
        raise ValueError(
            f"learner.batch_size is no multiple of learner.ranks ({learner.ranks}), which share it; change either"
        )
    budgets = {"online": config.online.env_frames, "rl": config.rl.env_frames}
    frames = sum(budget for phase, budget in budgets.items() if phase in config.phases)
    if config.evaluation.period_frames > frames > 0:
        raise ValueError(
            f"evaluation.period_frames is above the run's environment frames ({frames}): nothing that it learns would "
            "be evaluated, and its first version be given back; lower evaluation.period_frames, 0 leaves it to the time"
        )
    rates_actors = replay.sampler == "proportional" and config.actors.initial_priorities == "td_error"
    if config.network.head == "c51" and rates_actors:
        raise ValueError(
            "actors.initial_priorities is td_error, which says nothing beside the losses of network.head=c51; set "
            "actors.initial_priorities=max"
        )
    if config.env.max_episode_steps < learner.n_step:
        raise ValueError(
            f"env.max_episode_steps is below learner.n_step ({learner.n_step}): of an episode that is cut off there no "
            "transition can be drawn; raise the one or lower the other"
        )
    if config.actors.recv_batch > config.actors.lanes:
        raise ValueError(
            f"actors.recv_batch is above actors.lanes ({config.actors.lanes}): no batch of lanes would ever be full; "
            "lower it, 0 takes half of the lanes"
        )
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
    if replay.log_experience and 0 < replay.log_keep_steps < replay.capacity_steps:
        raise ValueError(
            f"replay.log_keep_steps is below replay.capacity_steps ({replay.capacity_steps}): a resumed run could not "
            "fill its replay again; raise replay.log_keep_steps, or set 0, which keeps everything"
        )
    if config.cluster.disk_stop_bytes > config.cluster.disk_warning_bytes:
        raise ValueError(
            "cluster.disk_stop_bytes is above cluster.disk_warning_bytes: the run would end without a warning; lower it"
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


def _check_reuse(config: RunConfig) -> None:
    """Raises ValueError for ways of reusing a teacher that contradict one another."""
    teacher, phases = config.teacher, set(config.phases)
    if teacher is not None and teacher.reload != "nothing" and teacher.also:
        raise ValueError("teacher.reload begins as one teacher; leave out teacher.also")
    if teacher is not None and teacher.optimizer == "restored" and teacher.reload == "nothing":
        raise ValueError("teacher.optimizer=restored needs teacher.reload=weights or weights_and_replay")
    begins_as = teacher is not None and teacher.reload != "nothing"
    if config.encoder.init_from and begins_as:
        raise ValueError("teacher.reload begins as the teacher, encoder.init_from as another; leave out one of them")
    if config.encoder.frozen and not (config.encoder.init_from or begins_as):
        raise ValueError("encoder.frozen would leave the torso at random; set encoder.init_from or teacher.reload")
    for name, asked in (
        ("guide.kind", config.guide.kind != "nobody"),
        ("online.teacher_fraction", config.online.teacher_fraction > 0),
    ):
        if asked and "online" not in phases:
            raise ValueError(f"{name} is of the phase online, which phases leaves out; add it")
