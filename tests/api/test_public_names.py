"""The names and signatures that others program against.

If a test here fails, the public API has changed. A new name: add its line (`python -m tests.helpers.public_api`
prints all), declare it in `upcycle/__init__.pyi`, describe it in docs/python_api.md. A changed or removed one breaks
programs: keep the old form if you can, else say in CHANGELOG.md what to write instead.
"""

import ast
import inspect
import pkgutil
import subprocess
import sys

import pytest

import upcycle
from tests.helpers.paths import ROOT
from tests.helpers.public_api import public_api

SIGNATURES = {
    "__version__": "str",
    "EnvConfig": "model",
    "NetworkConfig": "model",
    "RunConfig": "model",
    "CorruptDataError": "exception",
    "UpcycleError": "exception",
    "UserError": "exception",
    "environment": "(extension: ~_T) -> ~_T",
    "exploration": "(extension: ~_T) -> ~_T",
    "head": "(extension: ~_T) -> ~_T",
    "loss_term": "(extension: ~_T) -> ~_T",
    "torso": "(extension: ~_T) -> ~_T",
    "EnvSpec": (
        "(frame_shape: tuple[int, ...], frame_dtype: str, num_actions: int, stack: int, frame_skip: int) -> None"
    ),
    "LaneRows": (
        "(lane: Array, observation: Array, reward: Array, terminated: Array, truncated: Array, first: Array, "
        "game_over: Array, lives: Array) -> None"
    ),
    "LaneRows.ended": "property",
    "LaneRows.frame": "property",
    "Lanes": "class",
    "Lanes.close": "(self) -> None",
    "Lanes.recv": "(self) -> LaneRows",
    "Lanes.send": "(self, actions: Array, lane: Array) -> None",
    "LossInputs": (
        "(observation: Tensor, next_observation: Tensor, action: Tensor, n_step_return: Tensor, "
        "discount: Tensor, outputs: Outputs, teacher_log_policy: Tensor | None, network: QNetwork, "
        "target_network: QNetwork) -> None"
    ),
    "Evaluation": "(returns: Array, lengths: Array) -> None",
    "Evaluation.interval": "property",
    "Evaluation.mean_return": "property",
    "evaluate": (
        "(policy: Teacher | Run | Callable[[Array], Array], *, env: EnvConfig | None = None, episodes: int = 30, "
        "epsilon: float = 0.001, lanes: int = 5, seed: int = 0, policy_version: int | None = None, "
        "on_games: Callable[[Games], None] | None = None) -> Evaluation"
    ),
    "Batch": (
        "(observation: Array, action: Array, n_step_return: Array, discount: Array, next_observation: Array) -> None"
    ),
    "ExperienceLog": "class",
    "ExperienceLog.__len__": "(self) -> int",
    "ExperienceLog.batches": (
        "(self, batch_size: int, *, n_step: int = 1, stack: int | None = None, gamma: float = 0.99, "
        "clip_rewards: bool | None = None, shuffle_seed: int | None = None, newest: int | None = None, "
        "part: int = 0, num_parts: int = 1) -> Iterator[Batch]"
    ),
    "ExperienceLog.columns": "(self, *, newest: int | None = None) -> dict[str, Array]",
    "ExperienceLog.dataset": (
        "(self, batch_size: int, *, n_step: int = 1, stack: int | None = None, gamma: float = 0.99, "
        "clip_rewards: bool | None = None, shuffle_seed: int | None = None, "
        "newest: int | None = None) -> 'LogDataset'"
    ),
    "open_log": "(source: str | PathLike[str] | TeacherRecord, *, store: str | Path | None = None) -> ExperienceLog",
    "list_presets": "() -> list[str]",
    "load_preset": "(preset: str | Path, changes: Mapping[str, object] | None = None) -> RunConfig",
    "ReplayBatch": (
        "(transitions: Batch, keys: TransitionKeys, probabilities: Array, importance_weights: Array) -> None"
    ),
    "ReplayClient": (
        "(addresses: Mapping[int, str], spec: ChunkSpec, *, lanes: int = 1, seed: int | None = None) -> None"
    ),
    "ReplayClient.add": "(self, transition: Transition, *, lane: int = 0, timeout_seconds: float = 60.0) -> None",
    "ReplayClient.close": "(self) -> None",
    "ReplayClient.flush": "(self, *, timeout_seconds: float = 60.0) -> None",
    "ReplayClient.sample": (
        "(self, batch_size: int, *, n_step: int = 1, stack: int | None = None, gamma: float = 0.99, "
        "clip_rewards: bool = False, importance_sampling_exponent: float = 0.0, "
        "timeout_seconds: float = 60.0) -> ReplayBatch"
    ),
    "ReplayClient.stats": "(self) -> TableStats",
    "ReplayClient.update_priorities": "(self, keys: TransitionKeys, priorities: Array) -> None",
    "Transition": (
        "(frame: Array, action: int, reward: float, next_frame: Array, terminated: bool = False, "
        "truncated: bool = False) -> None"
    ),
    "connect_replay": (
        "(addresses: str | Mapping[int, str], spec: ChunkSpec, *, lanes: int = 1, "
        "seed: int | None = None) -> ReplayClient"
    ),
    "ReplayServer": "class",
    "ReplayServer.client": "(self, *, lanes: int = 1, seed: int | None = None) -> ReplayClient",
    "ReplayServer.stop": "(self) -> None",
    "start_replay": (
        "(*, frame_shape: tuple[int, ...], num_actions: int, frame_dtype: Literal['uint8', "
        "'float32'] = 'float32', max_stack: int = 1, max_n_step: int = 1, chunk_steps: int = 64, "
        "capacity: int = 100000, sampler: Literal['uniform', 'proportional'] = 'uniform', "
        "priority_exponent: float = 0.5, samples_per_insert: float | None = None, error_buffer: int = 1000, "
        "min_size_to_sample: int = 1, log: str | Path | None = None, env: EnvConfig | None = None, "
        "host: str = '127.0.0.1', port: int = 0, seed: int | None = None) -> ReplayServer"
    ),
    "Progress": (
        "(state: str, phase: str | None = None, fraction: float | None = None, env_frames: int = 0, "
        "learner_steps: int = 0, mean_return: float | None = None, restarts: int = 0, "
        "reason: str | None = None) -> None"
    ),
    "Run": "class",
    "Run.config": "property",
    "Run.name": "property",
    "Run.progress": "(self) -> Progress",
    "Run.stop": "(self, *, timeout_seconds: float = 180.0) -> None",
    "Run.summary": "(self) -> dict[str, Any]",
    "Run.wait": (
        "(self, timeout_seconds: float | None = None, *, on_progress: Callable[[Progress], "
        "object] | None = None) -> dict[str, Any]"
    ),
    "RunFailed": "exception",
    "open_run": "(name: str, *, runs: str | Path | None = None) -> Run",
    "run": "(config: RunConfig, *, runs: str | Path | None = None, overwrite: bool = False) -> Run",
    "Teacher": "class",
    "Teacher.num_actions": "property",
    "Teacher.observation_dtype": "property",
    "Teacher.observation_shape": "property",
    "Teacher.values": "(self, observations: Array) -> Array",
    "TeacherRecord": "model",
    "import_teacher": (
        "(path: str | Path, *, name: str, task: str | None = None, format: str = 'auto', "
        "replay: str | Path | None = None, overrides: Sequence[str] = (), licence: str = 'NOASSERTION', "
        "episodes: int = 30, store: str | Path | None = None, on_progress: Callable[[int, int], "
        "None] | None = None, on_games: Callable[[Games], None] | None = None) -> TeacherRecord"
    ),
    "list_teachers": "(*, store: str | Path | None = None) -> list[TeacherRecord]",
    "load_teacher": "(name: str, *, store: str | Path | None = None, device: str = 'cpu') -> Teacher",
    "publish_teacher": (
        "(run: str | PathLike[str], *, name: str, policy_version: int | None = None, "
        "with_experience: bool = True, with_training_state: bool = True, episodes: int | None = None, "
        "licence: str = 'Apache-2.0', store: str | Path | None = None, on_games: Callable[[Games], "
        "None] | None = None) -> TeacherRecord"
    ),
}


def test_names_and_signatures_are_those_that_programs_rely_on():
    found = public_api()
    assert sorted(found) == sorted(SIGNATURES), __doc__
    changed = {name: (found[name], text) for name, text in SIGNATURES.items() if found[name] != text}
    assert changed == {}, __doc__


def test_type_checkers_see_the_same_names():
    stub = ast.parse((ROOT / "upcycle" / "__init__.pyi").read_text())
    declared: dict[str, str] = {}
    for statement in stub.body:
        if isinstance(statement, ast.ImportFrom):
            declared |= {str(alias.asname): f"{statement.module}:{alias.name}" for alias in statement.names}
    assert {name: f"{module}:{name}" for name, module in vars(upcycle)["_MODULE_OF"].items()} == declared


def test_no_name_hides_a_sub_package():
    assert {module.name for module in pkgutil.iter_modules(upcycle.__path__)}.isdisjoint(upcycle.__all__)


def test_everything_public_says_what_it_is_for():
    silent = [name for name in upcycle.__all__ if name != "__version__" and not inspect.getdoc(getattr(upcycle, name))]
    assert silent == []


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import upcycle", "torch ray grpc envpool numpy pydantic redis matplotlib actors learner orchestrator"),
        ("import upcycle; upcycle.load_preset('catch')", "torch ray grpc envpool redis"),
        ("import upcycle; upcycle.list_teachers()", "torch ray grpc envpool redis"),
        ("import upcycle; upcycle.start_replay", "torch ray envpool"),
        ("import upcycle; upcycle.run", "torch ray envpool"),
    ],
)
def test_using_it_imports_no_more_than_it_needs(code: str, unwanted: str):
    code += f"; import sys; print(sorted({set(unwanted.split())!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == "[]"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(upcycle, "nothing")  # noqa: B009
    assert set(upcycle.__all__) <= set(dir(upcycle))
