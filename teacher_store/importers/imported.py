"""What importers return, and what they are: one `Importer` for each format."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from teacher_store.importers.readers.source_files import SourceFiles
from teacher_store.records.record import TeacherKind
from upcycle.config.run import NetworkConfig
from upcycle.experience.chunks import Array

EnvFields = Mapping[str, object]
"""Fields of `upcycle.config.run.EnvConfig`, by name."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the user says about a source beside its path.

    Attributes:
      checkpoint: which of several; None takes the newest.
      accept_lossy: take frames that were compressed with loss, so that they are not those which an agent saw.
    """

    checkpoint: int | None = None
    accept_lossy: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class ImportedAgent:
    """Weights in our terms.

    Attributes:
      network: which network.
      tensors: float32, by the names of `upcycle.networks.q_network.QNetwork.state_dict`.
      frame_shape: (H, W).
      frame_stack: frames of one observation.
      num_actions: outputs.
      kind: what they are: action values, or the logits of a policy's probabilities.
      protocol: what its framework trains such agents under, without the task.
      sha256: of the files that it was read from.
      differences: what of its protocol we cannot reproduce, a sentence each.
      learner_steps, env_frames: of its training, where the file says so.
      facts: what else the file says that is worth keeping, by name.
    """

    network: NetworkConfig
    tensors: dict[str, Array]
    frame_shape: tuple[int, ...]
    frame_stack: int
    num_actions: int
    protocol: EnvFields
    sha256: str
    kind: TeacherKind = "q_values"
    differences: tuple[str, ...] = ()
    learner_steps: int | None = None
    env_frames: int | None = None
    facts: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Consecutive rows of one lane, T of them, as in `upcycle.experience.chunks`.

    Attributes:
      frame: [T, *frame_shape], the newest frame of each observation.
      action: int32 [T]; reward: float32 [T], what came back for it.
      terminated, truncated: bool [T], how the episode ended after it.
      first: bool [T], the row opens an episode.
      final: bool [T], no transition starts here: the observation after an episode's last action, or one whose stack is
        not all there. Such a row has no outcome: its reward is 0, and it ends nothing.
    """

    frame: Array
    action: Array
    reward: Array
    terminated: Array
    truncated: Array
    first: Array
    final: Array

    @property
    def num_rows(self) -> int:
        """T."""
        return len(self.action)

    def part(self, start: int, stop: int | None = None) -> "Rows":
        """Views of the rows from `start` up to `stop`."""
        return Rows(*(getattr(self, name)[start:stop] for name in self.__slots__))


@dataclass(frozen=True, slots=True, eq=False)
class ImportedExperience:
    """A buffer in our terms, read as it is asked for.

    Attributes:
      rows: called with the number of rows to leave out (of an import that was interrupted), iterates over the others
        from the oldest to the newest, in blocks of bounded size.
      frame_shape, frame_dtype, num_actions: of its steps; num_actions is None where the source does not say.
      num_rows: how many there are; an upper bound where only reading tells.
      protocol: what its framework records under; empty where it does not say.
      fingerprint: SHA-256 that another source would not have.
      task: the EnvPool task, where the source says it beyond doubt.
      facts: what else the source says.
    """

    rows: Callable[[int], Iterator[Rows]]
    frame_shape: tuple[int, ...]
    frame_dtype: str
    num_actions: int | None
    num_rows: int
    protocol: EnvFields
    fingerprint: str
    task: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Importer:
    """One format.

    Attributes:
      name: of `--format`.
      title: for people.
      recognises: whether a source holds this format, by its content; reads no more than it must, and never raises for
        a source of another format.
      read_agent: its weights; None where the format has none.
      read_experience: its buffer; None where the format has none.

    Both readers raise UserError for what the user can put right (several agents, an unknown checkpoint) and
    CorruptDataError, naming the file, for what is damaged, hostile or of another shape than its framework writes.
    """

    name: str
    title: str
    recognises: Callable[[SourceFiles], bool]
    read_agent: Callable[[SourceFiles, Request], ImportedAgent] | None = None
    read_experience: Callable[[SourceFiles, Request], ImportedExperience] | None = None
