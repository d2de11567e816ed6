"""What acts, where, and from whom it learns: environment, network, teacher, encoder."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from upcycle.config.section import WHERE_USED, ExtensionName, Fraction, Options, PositiveInt, Section

_PADDINGS = {"nature": ("same", "valid"), "impala": ("same", "symmetric"), "mlp": ("same", "valid", "symmetric")}


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
    factory: ExtensionName = ""
    """Environment of your own, as an entry point in the group `upcycle.environments` or as `module:attribute`; it is
    given this section. Empty takes EnvPool's `task`."""
    factory_options: Annotated[Options, WHERE_USED] = Field(default_factory=Options)
    """Further settings of that environment."""


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
    custom_torso: ExtensionName = ""
    """Torso of your own in place of that of `kind`, as an entry point in the group `upcycle.torsos` or as
    `module:attribute`. Empty takes that of `kind`."""
    torso_options: Annotated[Options, WHERE_USED] = Field(default_factory=Options)
    """Keyword arguments of `custom_torso`."""
    custom_head: ExtensionName = ""
    """Last layers of your own, after the hidden one, as an entry point in the group `upcycle.heads` or as
    `module:attribute`. Empty takes a dense layer, or two with `dueling`."""
    head_options: Annotated[Options, WHERE_USED] = Field(default_factory=Options)
    """Keyword arguments of `custom_head`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.custom_head and self.dueling:
            raise ValueError("dueling says how the last layers are built, and so does custom_head; set one of both")
        if self.padding not in _PADDINGS[self.kind]:
            raise ValueError(
                f"padding={self.padding} is not known of kind={self.kind}; set {' or '.join(_PADDINGS[self.kind])}"
            )
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
