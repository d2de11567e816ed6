"""Configuration of a run: one frozen tree of pydantic models, documented field by field.

Presets (TOML) and `--set section.field=value` fill it; see `upcycle.config.io`. Nothing here imports torch or ray, so
that a wrong field is refused in well under a second. Counts of interaction are in environment frames (agent steps x
frame skip), the field's unit; agent steps and learner steps say so in their names.
"""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from upcycle.config.checks import check_network, check_redis_url, check_run
from upcycle.config.experience import ActorsConfig, GuideConfig, ReplayConfig
from upcycle.config.learning import (
    CqlConfig,
    DistillationConfig,
    LearnerConfig,
    MarginConfig,
    OfflineConfig,
    OnlineConfig,
    PhaseName,
    RlConfig,
)
from upcycle.config.section import Fraction, PositiveInt, Section

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
    resize_order: Literal["pool_first", "resize_first"] = "pool_first"
    """Whether the brighter of the last two emulator frames is taken before they are resized, as nearly everybody does,
    or after (Gogianu's agents), for which environments need about twice the processor time."""
    interpolation: Literal["area", "bilinear"] = "area"
    """How frames are resized: OpenCV's INTER_AREA or INTER_LINEAR."""
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
    full_action_space: bool = False
    """All actions of the console's joystick (18; 9 in games that do not use its button) instead of those that the game
    knows. A teacher that knows more actions than its student teaches those that both have."""
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
    padding: Literal["same", "valid", "symmetric"] = "same"
    """How convolutions and pools meet the edge. same: TensorFlow's and Flax's, an odd zero comes last (Dopamine).
    PyTorch agents (CleanRL, Stable-Baselines3) have valid, none at all, in a nature network and symmetric in an impala
    one. A wrong one loads without a word and spoils every value. Frames of 42x42 want same: valid leaves one pixel."""
    head: Literal["q", "c51"] = "q"
    """q: one value per action; c51: a distribution over returns per action (Bellemare et al. 2017)."""
    atoms: Annotated[int, Field(ge=2, le=512)] = 51
    """Atoms of each distribution of a c51 head."""
    support_limit: Annotated[float, Field(gt=0)] = 10.0
    """The atoms lie evenly from -support_limit to support_limit."""
    dueling: bool = False
    """Separate streams for the state's value and the actions' advantages (Wang et al. 2016)."""
    noisy: bool = False
    """Factorised Gaussian noise on the dense layers instead of epsilon-greedy (Fortunato et al. 2018); set
    actors.epsilon_end=0 with it."""
    noisy_sigma: Annotated[float, Field(gt=0)] = 0.5
    """Initial scale of that noise; divided by the square root of a layer's inputs."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_network(self)
        return self


class TeacherConfig(Section):
    """Whose work is reused, and how much of it."""

    id: str = "pong-dqn-42"
    """Name or id of a teacher in the store (`upcycle teacher list`)."""
    also: tuple[str, ...] = ()
    """Further teachers of the same environment; the best score of all is the one to reach."""
    combination: Literal["mixture", "value_gated"] = "mixture"
    """How several teach. mixture: their policies, weighted by their scores above random. value_gated: in each state the
    one whose action the student's own values like best, and only if that beats its own policy (CUP, Zhang et al. 2022,
    for discrete actions)."""
    gate_tolerance: Annotated[float, Field(ge=0)] = 0.0
    """value_gated: how far, in Q values, a teacher's action may fall short of the student's policy and still teach."""
    reload: Literal["nothing", "weights", "weights_and_replay"] = "nothing"
    """Fine-tuning: begin as the teacher, with its weights and, if wanted, its buffer in the table `online`, where new
    experience takes the place of the oldest. The student's network must be the teacher's."""
    optimizer: Literal["fresh", "restored"] = "fresh"
    """restored: go on with the teacher's optimizer state, which it must have been published with, and which must be of
    the same `learner.optimizer`."""
    collect_frames: Annotated[int, Field(ge=0)] = 0
    """If the teacher has no experience log, let it play this many environment frames first; 0 demands a log."""
    collect_epsilons: tuple[Fraction, ...] = (0.01, 0.05, 0.2)
    """Exploration of the collecting teacher, dealt out over its lanes, so that its buffer covers its own mistakes."""
    tolerance: Annotated[float, Field(ge=0)] = 0.0
    """A teacher whose score is not above the random score by more than this is refused."""
    accept_any: bool = False
    """Take a teacher that is not above random all the same, as the paper's code does."""


class EncoderConfig(Section):
    """A pretrained encoder: the student's torso begins as that of another network."""

    init_from: str = ""
    """Name or id of a teacher in the store, or path of a safetensors file with weights named `torso.*`; empty draws the
    torso's weights afresh. Its torso must be the student's: kind, width, padding, frames and stack."""
    frozen: bool = False
    """Leave the torso as it is; only what follows it learns."""


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
    period_frames: Annotated[int, Field(ge=0)] = 0
    """Least environment frames between the policy versions of two evaluations after the offline phase; 1,000,000 in the
    paper's code, 0 leaves it to the time alone."""


class ClusterConfig(Section):
    """Where the processes run."""

    address: str | None = None
    """Ray address; none starts a local Ray, or joins the one that submitted this job."""
    redis_url: Annotated[str | None, AfterValidator(check_redis_url)] = None
    """Redis or Valkey URL, without a password; none starts an embedded server, whose password only the run's processes
    get: on loopback, or on the driver's node of a cluster."""
    redis_password_file: str | None = None
    """File with the password for `redis_url`; UPCYCLE_REDIS_PASSWORD comes before it."""
    dashboard: bool = False
    """Start Ray's dashboard with a local Ray; a cluster has its own."""
    disk_warning_bytes: Annotated[int, Field(ge=0)] = 4 << 30
    """Warn in the panel, status, log and metrics when the disk of the run folder has fewer free bytes than this."""
    disk_stop_bytes: Annotated[int, Field(ge=0)] = 512 << 20
    """Stop the run with a checkpoint when the disk has fewer free bytes than this. 0 continues until a write fails."""
    max_restarts: Annotated[int, Field(ge=0)] = 5
    """Restarts of one process before the run gives up. A death stops counting after `restart_window_seconds`."""
    restart_window_seconds: Annotated[float, Field(gt=0)] = 300.0
    """How long a restarted process must keep answering before its death is forgotten."""
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
