"""Lanes of an environment: what they say about it, their rows, and those that other distributions bring."""

from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from upcycle.config.run import EnvConfig
from upcycle.errors import UserError
from upcycle.experience.chunks import Array
from upcycle.extensions import load_extension


@dataclass(frozen=True, slots=True)
class EnvSpec:
    """What a policy needs to know about an environment.

    Attributes:
      frame_shape: (H, W) for images, (D,) for vectors; other arrays are flattened to vectors.
      frame_dtype: "uint8" for images, "float32" for vectors.
      num_actions: size of the discrete action set.
      stack: frames of one observation; 1 for vectors.
      frame_skip: environment frames per agent step; 1 outside Atari.
    """

    frame_shape: tuple[int, ...]
    frame_dtype: str
    num_actions: int
    stack: int
    frame_skip: int


@dataclass(frozen=True, slots=True, eq=False)
class LaneRows:
    """One row of each of M lanes. Every array has M entries.

    Attributes:
      lane: int32, distinct lane ids; the next `send` must use the same ones.
      observation: [M, stack, *frame_shape], oldest frame first, after the protocol's stack fill.
      reward: float32, raw, for the action sent in the lane's previous row, as are the flags that follow.
      terminated: bool; the previous step ended the episode (with `episodic_life`, also by losing a life).
      truncated: bool; a time limit cut the episode off after the previous step.
      first: bool; this row opens an episode (reward 0, no flags).
      game_over: bool; as `terminated | truncated`, but a lost life does not count.
      lives: int32, lives left; 0 in tasks without lives.

    A row with `ended` holds the true final observation of its episode: the action sent in it is ignored.
    """

    lane: Array
    observation: Array
    reward: Array
    terminated: Array
    truncated: Array
    first: Array
    game_over: Array
    lives: Array

    @property
    def ended(self) -> Array:
        """Bool [M], `terminated | truncated`: no transition starts in these rows."""
        return self.terminated | self.truncated

    @property
    def frame(self) -> Array:
        """[M, *frame_shape], the newest frame of each observation."""
        return self.observation[:, -1]


class Lanes(Protocol):
    """Lanes of one environment: `recv` some rows, `send` one action for each of them, repeat.

    The row that ends an episode holds its true final observation; the action sent in it is ignored, and the lane's next
    row opens the next episode.

    Attributes:
      spec: what the environment looks like.
      lanes: how many there are.
    """

    spec: EnvSpec
    lanes: int

    def recv(self) -> LaneRows:
        """The next rows of `recv_batch` lanes; waits for them."""
        ...

    def send(self, actions: Array, lane: Array) -> None:
        """Steps the lanes of the rows received last: int [M] actions for the lane ids [M]."""
        ...

    def close(self) -> None:
        """Ends the environments; a second call does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class Environment(Protocol):
    """What `env.factory` names: a class without arguments, or an object."""

    def spec(self, env: EnvConfig) -> EnvSpec:
        """What the environment looks like, without starting it."""
        ...

    def make(self, env: EnvConfig, *, lanes: int, recv_batch: int, seed: int, threads: int, training: bool) -> Lanes:
        """Starts lanes of it; arguments as of `actors.envs.EnvPoolLanes`."""
        ...


def custom_spec(env: EnvConfig) -> EnvSpec:
    """What the environment that `env.factory` names looks like. Raises: UserError."""
    spec: EnvSpec = _called(env, "spec", EnvSpec)
    numbers = (*spec.frame_shape, spec.num_actions, spec.stack, spec.frame_skip)
    expected = "uint8" if len(spec.frame_shape) == 2 else "float32"
    if len(spec.frame_shape) not in (1, 2) or min(numbers) < 1 or spec.frame_dtype != expected:
        problem = f"its spec says {spec}"
        remedy = "mend it: uint8 of (H, W) or float32 of (D,), and at least one of actions, stack and frame_skip"
        raise UserError("env.factory", env.factory, problem, remedy)
    return spec


def custom_lanes(env: EnvConfig, *, lanes: int, recv_batch: int, seed: int, threads: int, training: bool) -> Lanes:
    """Lanes of the environment that `env.factory` names. Raises: UserError."""
    return _called(
        env, "make", object, lanes=lanes, recv_batch=recv_batch, seed=seed, threads=threads, training=training
    )


def _called(env: EnvConfig, method: str, returns: type, **arguments: Any) -> Any:
    found: Any = load_extension("environment", env.factory, field="env.factory").value
    try:
        environment = found() if isinstance(found, type) else found
        result = getattr(environment, method)(env, **arguments)
    except UserError:
        raise
    except Exception as error:  # foreign code may raise anything
        problem = f"{method} raised {type(error).__name__}: {error}"
        raise UserError("env.factory", env.factory, problem, "mend it, or env.factory_options") from error
    if not isinstance(result, returns):
        problem = f"{method} returned {type(result).__name__} instead of {returns.__name__}"
        raise UserError("env.factory", env.factory, problem, "mend it")
    return result
