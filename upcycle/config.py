"""Configuration of a run: one frozen tree of pydantic models, documented field by field.

Presets (TOML) and `--set section.field=value` fill it; see `upcycle.config_io`. Nothing here imports torch or ray, so
that a wrong field is refused in well under a second. Counts of interaction are in environment frames (agent steps x
frame skip), the field's unit; agent steps and learner steps say so in their names.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from upcycle.config_checks import check_run
from upcycle.config_experience import ActorsConfig, ReplayConfig
from upcycle.config_section import Fraction, PositiveInt, Section

PhaseName = Literal["offline", "online", "rl"]
PHASES: tuple[PhaseName, ...] = ("offline", "online", "rl")
"""All phases, in their order."""


class EnvConfig(Section):
    """The environment and its protocol. A teacher's record carries the same section, and its student must agree."""

    task: str = "Pong-v5"
    """EnvPool task with discrete actions."""
    frame_size: Annotated[int, Field(ge=24, le=256)] = 84
    """Height and width of a frame, in pixels; ignored by vector tasks."""
    frame_stack: Annotated[int, Field(ge=1, le=16)] = 4
    """Frames of one observation; ignored by vector tasks, which use 1."""
    frame_skip: PositiveInt = 4
    """Emulator frames per agent step; ignored by tasks that are no emulators, which count 1."""
    stack_fill: Literal["first_frame", "zeros"] = "first_frame"
    """What fills a stack at the start of an episode: EnvPool and Gym repeat the first frame, Dopamine uses zeros."""
    sticky_actions: Fraction = 0.0
    """Probability that the emulator repeats the last action on a frame; 0.25 is Dopamine's protocol."""
    noop_max: PositiveInt = 30
    """Up to this many no-ops open an episode; 1 is the least that EnvPool accepts."""
    fire_reset: bool = True
    """Press FIRE at the start of an episode where the game has it."""
    episodic_life: bool = False
    """Training episodes end with a life; evaluation always plays whole games."""
    clip_rewards: bool = True
    """Learn from rewards clipped to [-1, 1]; scores are always raw."""
    max_episode_steps: PositiveInt = 27_000
    """Agent steps after which an episode is truncated."""


class NetworkConfig(Section):
    """A Q network."""

    kind: Literal["nature", "impala", "mlp"] = "nature"
    """nature: Mnih et al. 2015; impala: Espeholt et al. 2018, 15 convolutions; mlp: for vector observations."""
    width: Annotated[float, Field(gt=0, le=8)] = 1.0
    """Multiplies the number of channels of every convolution."""
    hidden: PositiveInt = 512
    """Units of the hidden dense layer(s)."""
    padding: Literal["valid", "same"] = "valid"
    """Of the nature network's convolutions: valid as PyTorch agents have it (CleanRL, Stable-Baselines3), same as
    Dopamine's. Frames of 42x42 want same: valid leaves one pixel of them."""


class TeacherConfig(Section):
    """Whose work is reused, and how much of it."""

    id: str = "pong-dqn-42"
    """Name or id of a teacher in the store (`upcycle teacher list`)."""
    collect_frames: Annotated[int, Field(ge=0)] = 0
    """If the teacher has no experience log, let it play this many environment frames first; 0 demands a log."""
    collect_epsilons: tuple[Fraction, ...] = (0.01, 0.05, 0.2)
    """Exploration of the collecting teacher, dealt out over its lanes, so that its buffer covers its own mistakes."""
    tolerance: Annotated[float, Field(ge=0)] = 0.0
    """A teacher whose score is not above the random score by more than this is refused."""


class LearnerConfig(Section):
    """The learner."""

    batch_size: PositiveInt = 32
    """Transitions per learner step."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """Adam's rate; in the online phase it falls to `final_learning_rate` together with the distillation multiplier."""
    final_learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Rate once the teacher is weaned off, and in the rl phase; none keeps `learning_rate`."""
    adam_epsilon: Annotated[float, Field(gt=0)] = 1.5e-4
    """Adam's epsilon, added after bias correction."""
    loss: Literal["huber", "mse"] = "huber"
    """TD loss."""
    n_step: PositiveInt = 3
    """Horizon of the TD target, in agent steps."""
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.99
    """Discount per agent step."""
    double_q: bool = False
    """The online network chooses the action that the target network values (van Hasselt et al. 2016)."""
    target_update_period: PositiveInt = 2_000
    """Learner steps between hard copies to the target network; it is also copied at each phase switch."""
    weight_average_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Actors and evaluator play an exponential average of the weights with this decay; 0 plays the weights themselves.
    Single networks of a value-based learner swing from one evaluation to the next, their average swings less."""
    publish_period: PositiveInt = 200
    """Learner steps between two policy versions."""
    checkpoint_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Seconds between checkpoints; one is always written at a phase switch and at the end."""
    prefetch_batches: PositiveInt = 8
    """Batches fetched ahead; the queue is bounded by this."""
    batches_per_request: PositiveInt = 4
    """Batches drawn, and priorities written back, by one request to the shards."""
    requests_in_flight: Annotated[int, Field(ge=1, le=8)] = 1
    """Requests for batches under way at once, each with a thread of its own. 2 gives a third to a half more where the
    learner's host has a core to spare (docs/results/replay.md); with 1 batches come in the order in which they were
    drawn."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes CUDA where there is one."""
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """Of the convolutions; bfloat16 may be faster on processors that have it, and auto takes it there.
    Weights, dense layers, values and losses are always float32: near-equal actions differ by less than it tells."""
    threads: Annotated[int, Field(ge=0)] = 1
    """Torch threads on a CPU; 0 leaves the choice to torch."""


class DistillationConfig(Section):
    """The distillation term: coefficient x multiplier x KL(teacher || student) at a temperature (QDagger)."""

    coefficient: Annotated[float, Field(ge=0)] = 3.0
    """lambda, fixed; 3 for a DQN student in the paper's code."""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """tau, of both softmaxes; coefficient / temperature is the real weight."""
    latch: bool = True
    """Once the student has reached its teacher, distillation stays off (the paper's code); else it may come back."""
    score_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The multiplier follows an exponential average of the student's scores, in which the older ones weigh so much; 0
    (the paper's code) takes the newest alone. A few games tell little, and a student weaned too soon forgets."""
    clip_multiplier: bool = True
    """Keep the multiplier at 1 for a student below random; the paper's code lets it, and the learning rate, rise."""


class OfflineConfig(Section):
    """Phase 1: TD loss and distillation on the teacher's buffer."""

    learner_steps: PositiveInt = 1_000_000
    """Gradient steps; 10 x 100,000 in the paper's code."""


class OnlineConfig(Section):
    """Phase 2: the student's own experience, distillation fading as it nears the teacher."""

    env_frames: PositiveInt = 6_000_000
    """Environment frames after which the teacher is weaned off whatever the score (t0 in the paper's code)."""


class RlConfig(Section):
    """Phase 3: plain RL."""

    env_frames: PositiveInt = 4_000_000
    """Environment frames of this phase; it alone is counted, not the phases before it."""
    stop_at_return: float | None = None
    """End early once an evaluation's mean raw return reaches this; none never does."""


class EvaluationConfig(Section):
    """The evaluator: whole episodes, raw returns, pinned weights."""

    episodes: PositiveInt = 10
    """Episodes of each evaluation while training."""
    final_episodes: PositiveInt = 30
    """Episodes of the final evaluation, and of the teacher's."""
    finalists: PositiveInt = 1
    """How many of the best evaluated versions play as many episodes at the end, to settle which one is given back; 1
    takes the best evaluation's word for it."""
    lanes: PositiveInt = 5
    """Environments played side by side."""
    epsilon: Fraction = 0.001
    """Exploration while evaluating (ALE protocol)."""
    period_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Least time between the starts of two evaluations; each takes the newest policy version."""


class ClusterConfig(Section):
    """Where the processes run."""

    address: str | None = None
    """Ray address; none starts a local Ray, or joins the one that submitted this job."""
    redis_url: str | None = None
    """Redis or Valkey URL; none starts an embedded server on loopback."""
    dashboard: bool = False
    """Start Ray's dashboard with a local Ray; a cluster has its own."""
    max_restarts: Annotated[int, Field(ge=0)] = 5
    """Restarts of one process within `restart_window_seconds` before the run gives up on it."""
    restart_window_seconds: Annotated[float, Field(gt=0)] = 300.0
    """Window of the crash-loop limit."""
    heartbeat_timeout_seconds: Annotated[float, Field(gt=0)] = 60.0
    """A process that has not been heard of for so long counts as dead."""


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
    teacher: TeacherConfig | None = None
    """The teacher; needed by the phases offline and online."""
    replay: ReplayConfig = ReplayConfig()
    """Replay service."""
    actors: ActorsConfig = ActorsConfig()
    """Actors."""
    learner: LearnerConfig = LearnerConfig()
    """Learner."""
    distillation: DistillationConfig = DistillationConfig()
    """Distillation."""
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
        check_run(self, PHASES)
        return self
