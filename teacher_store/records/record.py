"""What is written down about a teacher: enough to use it, to trust it and to trace it."""

import hashlib
import json
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from upcycle.config.extension_use import RecordedExtension
from upcycle.config.io import scrub_config
from upcycle.config.run import EnvConfig, NetworkConfig
from upcycle.config.section import WHERE_USED
from upcycle.errors import CorruptDataError

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""One component of a path, never `..`: records come from elsewhere and must not point out of their folder."""

RelativePath = Annotated[
    str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63}/){0,8}[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
]
"""Some components."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Weights(_Part):
    """The weight file."""

    file: Name = "weights.safetensors"
    """File name in the teacher's folder."""
    sha256: Sha256
    """Of the file's bytes."""
    bytes: Annotated[int, Field(gt=0)]
    """Its size."""


OptimizerKind = Literal["adam", "rmsprop"]
"""As in `learner.optimizer`."""


class TrainingState(_Part):
    """Networks and optimizer as they were when training stopped; see `teacher_store.training_state`."""

    file: Name = "training_state.safetensors"
    """File name in the teacher's folder."""
    sha256: Sha256
    """Of the file's bytes."""
    bytes: Annotated[int, Field(gt=0)]
    """Its size."""
    optimizer: OptimizerKind
    """Whose state it is."""
    learner_steps: Annotated[int, Field(ge=0)]
    """Gradient steps behind it."""


TeacherKind = Literal["q_values", "probabilities", "experience"]
"""What a teacher says about a state. q_values: one per action; its policy is their softmax at the distillation
temperature. probabilities: its policy itself. experience: nothing, it only left a buffer."""


class Function(_Part):
    """A policy that is a Python callable, found by its entry point in the group `upcycle.teachers`."""

    entry_point: Name
    """Name of the entry point."""
    distribution: str
    """The installed distribution that has it."""
    version: str
    """Its version when it was registered; another one is refused."""
    cacheable: bool
    """The same observation always gets the same values, so they are computed once for each stored state."""
    seconds_per_state: Annotated[float, Field(ge=0)]
    """What a state cost when it was registered, in batches of 32."""


class Parity(_Part):
    """A comparison with values that the teacher's own framework computed for the same observations."""

    observations: Annotated[int, Field(gt=0)]
    """How many."""
    largest_difference: Annotated[float, Field(ge=0)]
    """Of all values, absolute."""
    reference: str
    """The file that held them: its SHA-256."""


class Source(_Part):
    """What a teacher was imported from."""

    format: str
    """Name of the importer."""
    path: str
    """Last component of the path, for people."""
    sha256: Sha256
    """Of the file of weights, or of a folder's files of weights; of a buffer's description where there are none."""
    facts: dict[str, str] = {}
    """What else the files said."""


class Score(_Part):
    """Raw returns of whole episodes."""

    mean_return: float
    """Mean over the episodes."""
    episodes: Annotated[int, Field(gt=0)]
    """How many."""
    epsilon: Annotated[float, Field(ge=0, le=1)]
    """Exploration while they were played."""
    interval_low: float
    """Lower end of the mean's 95 % bootstrap interval."""
    interval_high: float
    """Upper end."""
    actions: Literal["greedy", "sampled"] = "greedy"
    """How it chose its actions otherwise: the best one, or one drawn from the probabilities that it gives."""


class Experience(_Part):
    """A buffer that the teacher left."""

    directory: Name
    """Folder of the experience log, in the teacher's folder."""
    transitions: Annotated[int, Field(ge=0)]
    """Transitions in it."""
    chunks: Annotated[int, Field(ge=0)]
    """Chunks in it."""
    files: dict[RelativePath, Sha256]
    """SHA-256 of every file, by path relative to `directory`."""


class Provenance(_Part):
    """Where the weights come from."""

    run_id: str | None = None
    """The run that made them."""
    config: Annotated[str | None, AfterValidator(lambda text: None if text is None else scrub_config(text))] = None
    """That run's configuration, as TOML. A password in it, as early versions let in, is left out when it is read."""
    learner_steps: int | None = None
    """Gradient steps behind these weights; the run may have gone on."""
    env_frames: int | None = None
    """Environment frames that the run itself had played up to these weights."""
    encoder: Sha256 | None = None
    """Of the weight file that its torso began as, if there was one."""
    versions: dict[str, str] = {}
    """Versions of the software, by package."""
    created: float | None = None
    """When they were published, Unix seconds."""
    source: Source | None = None
    """What it was imported from; None where a run of ours made it."""

    @property
    def config_sha256(self) -> str | None:
        """Of the run's configuration: the same for two teachers that were made in the same way."""
        return None if self.config is None else hashlib.sha256(self.config.encode()).hexdigest()


class TeacherRecord(_Part):
    """One teacher. Immutable: a later score or buffer makes a new record under the same id."""

    format: Literal[1] = 1
    """Version of this record."""
    revision: Annotated[int, Field(ge=0)] = 0
    """Counts the changes that its store has taken; 0 of a record that no store has taken yet."""
    id: Name
    """Name and the start of the weights' SHA-256: unique, and says whether two stores hold the same teacher."""
    name: Name
    """What people call it."""
    kind: TeacherKind = "q_values"
    """What its outputs are."""
    env: EnvConfig
    """Environment and protocol it was trained for."""
    network: NetworkConfig | None
    """Its network; None of a function, or of a buffer without a policy."""
    function: Function | None = None
    """The callable that it is, if it is one."""
    frame_shape: tuple[int, ...]
    """(H, W) of a frame, or (D,) of a vector."""
    frame_stack: Annotated[int, Field(gt=0)]
    """Frames of one observation."""
    num_actions: Annotated[int, Field(gt=0)]
    """Size of its action set."""
    actions: tuple[str, ...] = ()
    """Meaning of each action, in order; empty where the environment does not say."""
    differences: tuple[str, ...] = ()
    """What of the protocol it was trained under cannot be reproduced, a sentence each."""
    parity: Parity | None = None
    """How near its values are to those of its own framework, if they were compared."""
    weights: Weights | None
    """The weight file; None where there is no network."""
    score: Score | None = None
    """Its score, if it has been evaluated."""
    random_score: float | None = None
    """Mean return of the uniformly random policy under the same protocol."""
    experience: Experience | None = None
    """Its buffer, if it left one."""
    training_state: TrainingState | None = None
    """What its training had come to, if it was published with that."""
    licence: str = "Apache-2.0"
    """Licence of the weights (an SPDX identifier)."""
    parents: tuple[Name, ...] = ()
    """Ids of the teachers that it was reincarnated from."""
    provenance: Provenance = Provenance()
    """Where the weights come from."""
    extensions: Annotated[tuple[RecordedExtension, ...], WHERE_USED] = ()
    """What its network and its environment need beside Upcycle."""

    @property
    def cacheable(self) -> bool:
        """Equal observations always get equal values, so that they are kept beside stored states."""
        return self.function is None or self.function.cacheable

    def to_bytes(self) -> bytes:
        """The record as a readable JSON file."""
        return json.dumps(self.model_dump(mode="json"), indent=1).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes | str, *, where: str) -> Self:
        """Inverse of `to_bytes`. Raises CorruptDataError naming `where` and the field."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "record"
            raise CorruptDataError(f"{where}: {field}: {first['msg']}") from error

    def describe_policy(self) -> str:
        """What it is, in a few words for people."""
        if self.function is not None:
            made_by = f"{self.function.distribution} {self.function.version}"
            return f"Python function {self.function.entry_point} of {made_by} ({self.kind.replace('_', ' ')})"
        if self.network is None:
            return "experience without a policy"
        custom = [name for name in (self.network.custom_torso, self.network.custom_head) if name]
        words = f"{self.network.kind}, width {self.network.width:g}, hidden {self.network.hidden}"
        words = ", ".join([words, *custom])
        return words + (", gives probabilities" if self.kind == "probabilities" else "")


def teacher_id(name: str, weights_sha256: str) -> str:
    """The id of a teacher: its name and the first eight digits of its weights' SHA-256."""
    return f"{name}-{weights_sha256[:8]}"


def digest_of_files(files: dict[str, str]) -> str:
    """One SHA-256 over a set of files and their SHA-256."""
    return hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()
