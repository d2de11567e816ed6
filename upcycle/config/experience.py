"""Sections of the configuration about gathering experience and keeping it; see `upcycle.config.run`."""

from typing import Annotated, Literal

from pydantic import Field

from upcycle.config.section import WHERE_USED, ExtensionName, Fraction, Options, PositiveInt, Section


class ReplayConfig(Section):
    """The sharded replay service. All capacities are totals over the shards, in agent steps."""

    num_shards: PositiveInt = 2
    """Replay processes."""
    capacity_steps: PositiveInt = 200_000
    """Transitions kept by the table `online`; the oldest chunk leaves first."""
    teacher_capacity_steps: PositiveInt = 1_000_000
    """Newest transitions of the teacher's log that the table `teacher` takes; memory is reserved for what is there."""
    chunk_steps: Annotated[int, Field(ge=8, le=1024)] = 64
    """Usable steps of a chunk."""
    max_n_step: Annotated[int, Field(ge=1, le=32)] = 5
    """Rows that a chunk carries for n-step returns: the largest `learner.n_step` this experience can ever serve, in
    this run or as a teacher's buffer."""
    sampler: Literal["uniform", "proportional"] = "uniform"
    """How the table `online` is sampled; `teacher` is always sampled uniformly."""
    priority_exponent: Annotated[float, Field(ge=0, le=1)] = 0.5
    """alpha: sampling probability is proportional to priority^alpha."""
    stratified: bool = True
    """Draw one transition from each of `learner.batch_size` equal parts of the priority mass, as Dopamine does; false
    draws them independently."""
    importance_sampling_exponent: Fraction = 0.5
    """beta: importance weights are (N P(i))^-beta, divided by the largest of the batch."""
    samples_per_insert: Annotated[float, Field(gt=0)] = 8.0
    """Transitions sampled per transition inserted, over all shards; 8 is batch 32 per 4 agent steps."""
    error_buffer_steps: PositiveInt = 4_000
    """How many inserted steps sampling and inserting may be apart from that ratio before one waits for the other."""
    min_size_to_sample: PositiveInt = 5_000
    """Transitions in `online` before the first is sampled."""
    tier: Literal["raw", "warm", "cold"] = "raw"
    """How the table `online` keeps frames. raw: as they are, 8 KB a transition of 84x84 pixels, the quickest by far for
    a learner on the same host. warm: in LZ4 blocks, 0.3 to 1 KB, and what to choose when the learner is on another
    host. cold: in zstd groups of 16 frames, 0.1 to 0.3 KB, at three to six times warm's cost of decoding, for buffers
    that fit in no other way."""
    teacher_tier: Literal["raw", "warm", "cold"] = "raw"
    """The same of the table `teacher`."""
    cold_on_disk: bool = False
    """Keep the frames of the tier cold in files under the run's folder instead of in memory."""
    cold_cache_bytes: Annotated[int, Field(ge=0)] = 64 << 20
    """Compressed chunks read from those files last that each table keeps in memory, in bytes."""
    wire: Literal["auto", "raw"] = "auto"
    """How frames travel to the learner. auto: those of the tiers warm and cold compressed, as they are stored, and
    decoded by the learner; all others as they are. raw: decoded in the shard."""
    log_experience: bool = True
    """Append every accepted chunk to the run's experience log, the buffer of the next generation."""
    log_keep_steps: Annotated[int, Field(ge=0)] = 10_000_000
    """Maximum number of transitions in the experience log, summed over shards; the oldest files are deleted first. Must
    be at least `capacity_steps`, because a resumed run refills replay from the log. Publishing a teacher keeps the
    files that exist at that time. Ten million transitions of 84x84 frames take 1 to 3 GB. 0 disables deletion."""


class ActorsConfig(Section):
    """The acting processes."""

    num_actors: PositiveInt = 2
    """Actor processes."""
    lanes: PositiveInt = 8
    """Environments in each actor."""
    recv_batch: Annotated[int, Field(ge=0)] = 0
    """Lanes served per batch of EnvPool's asynchronous interface; 0 means half of the lanes."""
    epsilon_start: Fraction = 1.0
    """Exploration at the first agent step."""
    epsilon_end: Fraction = 0.01
    """Exploration after the decay."""
    epsilon_decay_frames: PositiveInt = 200_000
    """Environment frames of all actors together over which epsilon falls linearly. A student that has been through an
    offline phase starts at `epsilon_end` (its learner steps have counted, as in the paper's code)."""
    epsilon_warmup_frames: Annotated[int, Field(ge=0)] = 0
    """Environment frames before the decay begins; Dopamine's agents wait for 80,000."""
    initial_priorities: Literal["td_error", "max"] = "td_error"
    """What new transitions are worth to a prioritised table. td_error: |n-step TD error| under the behaviour policy
    (Ape-X); max: the highest priority of any so far (Rainbow), which a c51 head needs: its losses are no TD errors."""
    weight_poll_seconds: Annotated[float, Field(gt=0)] = 1.0
    """How often an actor looks for a newer policy version."""
    compression: Literal["lz4", "none"] = "lz4"
    """How frames travel to replay. lz4 takes 1 to 3 us of an actor's step, sends 8 to 42 times fewer bytes, and saves
    both sides more than that. none is for frames that do not compress."""
    threads: PositiveInt = 1
    """Threads of one actor: EnvPool's and the policy's."""
    exploration: ExtensionName = ""
    """How actors choose their actions from Q values, as an entry point in the group `upcycle.explorations` or as
    `module:attribute`. Empty is epsilon-greedy."""
    exploration_options: Annotated[Options, WHERE_USED] = Field(default_factory=Options)
    """Keyword arguments of `exploration`."""


class GuideConfig(Section):
    """In the online phase the teacher acts in the student's place now and then (JSRL, Uchendu et al. 2022)."""

    kind: Literal["nobody", "opening", "fading"] = "nobody"
    """opening: the teacher plays the first steps of each episode, a number drawn from 1 to `opening_steps`, which
    shrinks; fading: it acts with a probability that falls linearly to 0."""
    opening_steps: PositiveInt = 1_000
    """Most agent steps that the teacher opens an episode with, at first."""
    opening_decay: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """What `opening_steps` is multiplied with, and rounded down, after every `iteration_frames`; below 1 the student
    acts alone."""
    iteration_frames: PositiveInt = 500_000
    """Environment frames between two such steps."""
    fade_frames: PositiveInt = 10_000_000
    """fading: environment frames of the phase after which the teacher acts no more."""
