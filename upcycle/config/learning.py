"""Sections of the configuration about learning; see `upcycle.config.run`.

A method is a choice among them: which loss terms, which phases, which data, and how the teacher fades.
"""

from typing import Annotated, Literal

from pydantic import Field

from upcycle.config.section import WHERE_USED, ExtensionName, Options, PositiveInt, Section

PhaseName = Literal["offline", "online", "rl"]
"""offline: on the teacher's buffer; online: with the teacher's help; rl: without it."""


class LearnerConfig(Section):
    """The learner: TD loss, optimizer, and how it is run."""

    batch_size: PositiveInt = 32
    """Transitions per learner step, over all ranks."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """Rate; in the online phase it falls to `final_learning_rate` together with the distillation multiplier."""
    final_learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Rate once the teacher is weaned off, and in the rl phase; none keeps `learning_rate`."""
    optimizer: Literal["adam", "rmsprop"] = "adam"
    """rmsprop is Nature DQN's: centred, epsilon inside the root, where torch's own has it outside."""
    adam_epsilon: Annotated[float, Field(gt=0)] = 1.5e-4
    """Adam's epsilon, added after bias correction."""
    rmsprop_decay: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """RMSProp's decay of both averages."""
    rmsprop_epsilon: Annotated[float, Field(gt=0)] = 1e-5
    """RMSProp's epsilon, inside the root."""
    td_coefficient: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the TD loss; 0 leaves imitation alone (DAgger)."""
    loss: Literal["huber", "mse"] = "huber"
    """TD loss of a q head; a c51 head has its cross-entropy."""
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
    ranks: Annotated[int, Field(ge=1, le=64)] = 1
    """Learner processes that share every batch and add up their gradients, one GPU each where there are GPUs."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes CUDA where there is one."""
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """Of convolutions and hidden layer; bfloat16 may be faster on processors that have it, and auto takes it there.
    Weights, head, values and losses are always float32: near-equal actions differ by less than it tells."""
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    """Of frames and convolutions; auto measures both at the run's first start and keeps the faster."""
    compile: Literal["off", "on", "auto"] = "off"
    """Let torch.compile fuse the networks; auto measures whether that pays. It needs a C++ compiler."""
    threads: Annotated[int, Field(ge=0)] = 1
    """Torch threads on a CPU; 0 measures at the run's first start which number is fastest."""


class DistillationConfig(Section):
    """The distillation term: coefficient x multiplier x KL(teacher || student) at a temperature (QDagger)."""

    coefficient: Annotated[float, Field(ge=0)] = 3.0
    """lambda, fixed; 3 for a DQN student in the paper's code, 1 for Rainbow."""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """tau, of both softmaxes; coefficient / temperature is the real weight."""
    schedule: Literal["score", "linear", "constant"] = "score"
    """How the multiplier of all terms that imitate fades in the online phase. score: as the student nears the teacher
    (QDagger); linear: over `online.env_frames`; constant: not at all (DAgger)."""
    latch: bool = True
    """Once the student has reached its teacher, distillation stays off (the paper's code); else it may come back."""
    score_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The multiplier follows an exponential average of the student's scores, in which the older ones weigh so much; 0
    (the paper's code) takes the newest alone. A few games tell little, and a student weaned too soon forgets."""
    clip_multiplier: bool = True
    """Keep the multiplier at 1 for a student below random; the paper's code lets it, and the learning rate, rise."""


class MarginConfig(Section):
    """The large-margin term: coefficient x multiplier x how far other actions come within a margin of the teacher's."""

    coefficient: Annotated[float, Field(ge=0)] = 0.0
    """0 leaves the term out; 1 in the paper's DQfD."""
    margin: Annotated[float, Field(gt=0)] = 1.0
    """By how much the teacher's action is to be ahead, in Q values."""
    form: Literal["mean", "max"] = "mean"
    """mean: over all actions, as the Reincarnating RL code has it; max: of the worst one (Hester et al. 2018)."""


class CqlConfig(Section):
    """The conservative term: coefficient x (logsumexp Q / tau - Q(s, a) / tau), against values that no data support."""

    coefficient: Annotated[float, Field(ge=0)] = 0.0
    """alpha; 0 leaves the term out; 1 in the paper's pre-training."""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """tau."""
    phases: tuple[PhaseName, ...] = ("offline",)
    """Phases that have the term."""


LossTermName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
"""What TensorBoard calls a loss term of your own."""


class LossTermConfig(Section):
    """A loss term of your own: coefficient x the importance-weighted mean of what it returns. Give each a name."""

    use: Annotated[ExtensionName, Field(min_length=1)]
    """The term, as an entry point in the group `upcycle.loss_terms` or as `module:attribute`."""
    coefficient: Annotated[float, Field(ge=0)] = 1.0
    """0 leaves the term out."""
    phases: tuple[PhaseName, ...] = ("offline", "online", "rl")
    """Phases that have the term."""
    fades: bool = False
    """Multiply it with the multiplier of the terms that imitate, which falls to 0."""
    options: Annotated[Options, WHERE_USED] = Field(default_factory=Options)
    """Keyword arguments of the term."""


class OfflineConfig(Section):
    """Phase 1: TD loss and imitation on the teacher's buffer."""

    learner_steps: PositiveInt = 1_000_000
    """Gradient steps; 10 x 100,000 in the paper's code."""


class OnlineConfig(Section):
    """Phase 2: the student's own experience, the teacher's part fading as it nears the teacher."""

    env_frames: PositiveInt = 6_000_000
    """Environment frames after which the teacher is weaned off whatever the score (t0 in the paper's code)."""
    teacher_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Part of every batch that comes from the teacher's buffer (rehearsal), as so many whole rows on average."""


class RlConfig(Section):
    """Phase 3: plain RL."""

    env_frames: PositiveInt = 4_000_000
    """Environment frames of this phase; it alone is counted, not the phases before it."""
    stop_at_return: float | None = None
    """End early once an evaluation's mean raw return reaches this; none never does."""
    fresh_optimizer: bool = False
    """Begin the phase with a new optimizer, as the paper does after pre-training."""
