"""The public Python API; see `docs/python_api.md`. `__init__.py` has the same table, and a test compares both."""

from actors.lanes import EnvSpec as EnvSpec
from actors.lanes import LaneRows as LaneRows
from actors.lanes import Lanes as Lanes
from learner.loss_terms import LossInputs as LossInputs
from orchestrator.api.batch import Batch as Batch
from orchestrator.api.evaluation import Evaluation as Evaluation
from orchestrator.api.evaluation import evaluate as evaluate
from orchestrator.api.log import ExperienceLog as ExperienceLog
from orchestrator.api.log import open_log as open_log
from orchestrator.api.presets import list_presets as list_presets
from orchestrator.api.presets import load_preset as load_preset
from orchestrator.api.replay_client import ReplayBatch as ReplayBatch
from orchestrator.api.replay_client import ReplayClient as ReplayClient
from orchestrator.api.replay_client import Transition as Transition
from orchestrator.api.replay_client import connect_replay as connect_replay
from orchestrator.api.replay_server import ReplayServer as ReplayServer
from orchestrator.api.replay_server import start_replay as start_replay
from orchestrator.api.running import Progress as Progress
from orchestrator.api.running import Run as Run
from orchestrator.api.running import RunFailed as RunFailed
from orchestrator.api.running import open_run as open_run
from orchestrator.api.running import run as run
from orchestrator.api.teachers import Teacher as Teacher
from orchestrator.api.teachers import TeacherRecord as TeacherRecord
from orchestrator.api.teachers import import_teacher as import_teacher
from orchestrator.api.teachers import list_teachers as list_teachers
from orchestrator.api.teachers import load_teacher as load_teacher
from orchestrator.api.teachers import publish_teacher as publish_teacher
from upcycle.config.run import EnvConfig as EnvConfig
from upcycle.config.run import NetworkConfig as NetworkConfig
from upcycle.config.run import RunConfig as RunConfig
from upcycle.errors import CorruptDataError as CorruptDataError
from upcycle.errors import UpcycleError as UpcycleError
from upcycle.errors import UserError as UserError
from upcycle.extensions import environment as environment
from upcycle.extensions import exploration as exploration
from upcycle.extensions import head as head
from upcycle.extensions import loss_term as loss_term
from upcycle.extensions import torso as torso

__all__ = [
    "Batch",
    "CorruptDataError",
    "EnvConfig",
    "EnvSpec",
    "Evaluation",
    "ExperienceLog",
    "LaneRows",
    "Lanes",
    "LossInputs",
    "NetworkConfig",
    "Progress",
    "ReplayBatch",
    "ReplayClient",
    "ReplayServer",
    "Run",
    "RunConfig",
    "RunFailed",
    "Teacher",
    "TeacherRecord",
    "Transition",
    "UpcycleError",
    "UserError",
    "__version__",
    "connect_replay",
    "environment",
    "evaluate",
    "exploration",
    "head",
    "import_teacher",
    "list_presets",
    "list_teachers",
    "load_preset",
    "load_teacher",
    "loss_term",
    "open_log",
    "open_run",
    "publish_teacher",
    "run",
    "start_replay",
    "torso",
]

__version__: str
