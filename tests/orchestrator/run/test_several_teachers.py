"""Two teachers of Catch, each right about one half of the grid, and the student of both.

One takes every ball for its mirror image in the left half, the other for its mirror image in the right half. So each
catches what falls in its own half or in the middle, three balls of five, and is sure of itself where it is wrong.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from actors.envs import chunk_spec
from learner.losses import gated_teacher
from orchestrator.reports.summary import summarise
from orchestrator.teachers.publishing import collect_experience, score_teacher
from teacher_store.records.record import TeacherRecord
from teacher_store.store.publishing import NewTeacher
from teacher_store.store.store import TeacherStore
from tests.helpers.in_process import run_in_process
from tests.orchestrator.run.test_methods import small
from upcycle.config.run import NetworkConfig
from upcycle.experience.chunks import Array
from upcycle.networks.q_network import QNetwork, build_network
from upcycle.networks.torch_io import load_into, to_numpy
from upcycle.runs.snapshots import write_snapshot

pytestmark = pytest.mark.slow

ENV = small("qdagger_dqn").env
NETWORK = NetworkConfig(kind="mlp", hidden=256)
ROWS, COLUMNS = 10, 5
FRAME_SHAPE, NUM_ACTIONS = (ROWS * COLUMNS,), 3
TEMPERATURE = 0.1
EPISODES = 200
COLLECTED_FRAMES = 4_000
MARGIN = 0.4
"""By how much the student is to be ahead. A game returns 1 or -1, so the difference of two means of 200 games has a
standard error of at most 0.1."""

RUN = (
    "teacher.id=left", "teacher.also=right", "network.hidden=128", "actors.epsilon_end=0.1",
    "learner.batch_size=128", "replay.samples_per_insert=32.0", "learner.n_step=5", "learner.target_update_period=50",
    "learner.final_learning_rate=1e-3", "learner.adam_epsilon=1e-8", "distillation.coefficient=1.0",
    "offline.learner_steps=600", "online.env_frames=2_500", "rl.env_frames=8_000", "rl.stop_at_return=0.95",
    f"evaluation.final_episodes={EPISODES}", "evaluation.finalists=3",
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    """As the learner sets it: networks as small as these lose by more."""
    torch.set_num_threads(1)


def states() -> tuple[Array, Array, Array]:
    """All that a player gets to see before its last move: observations float32 [S, 1, 50], columns of ball and paddle.

    The ball starts in any column of row 0 and falls one row a step; the paddle is in row 9; action a moves it by a - 1.
    """
    row, ball, paddle = (axis.ravel() for axis in np.indices((ROWS - 1, COLUMNS, COLUMNS)))
    grid = np.zeros((len(row), ROWS, COLUMNS), np.float32)
    grid[np.arange(len(row)), row, ball] = 1.0
    grid[np.arange(len(row)), ROWS - 1, paddle] = 1.0
    return grid.reshape(-1, 1, ROWS * COLUMNS), ball, paddle


def values_of_going_to(column: Array, paddle: Array) -> Array:
    """Q values of a player that wants the paddle in a column, float32 [S, 3]: -1/4 for each step that is then left."""
    moved = np.clip(paddle[:, None] + np.arange(NUM_ACTIONS) - 1, 0, COLUMNS - 1)
    return (1.0 - 0.25 * np.abs(moved - column[:, None])).astype(np.float32)


def untrained(seed: int) -> QNetwork:
    """A network as it is before its first step."""
    torch.manual_seed(seed)
    return build_network(NETWORK, frame_shape=FRAME_SHAPE, stack=1, num_actions=NUM_ACTIONS)


@torch.no_grad()
def fitted(column: Array, *, seed: int) -> QNetwork:
    """A network that wants the paddle in the given column of each state: random features, last layer by regression."""
    observations, _, paddle = states()
    network = untrained(seed)
    features = torch.relu(network.hidden(network.torso(torch.from_numpy(observations))))  # [S, hidden]
    inputs = np.concatenate((features.numpy(), np.ones((len(features), 1))), axis=1)
    target = values_of_going_to(column, paddle)
    weights = np.linalg.lstsq(inputs, target, rcond=1e-6)[0].astype(np.float32)  # [hidden + 1, A]
    load_into(
        network, to_numpy(network.state_dict()) | {"head.weight": weights[:-1].T.copy(), "head.bias": weights[-1]}
    )
    np.testing.assert_allclose(network(torch.from_numpy(observations)).numpy(), target, atol=0.05)
    return network


def columns_wanted() -> dict[str, Array]:
    """Where each teacher wants the paddle in each state, int64 [S]."""
    ball = states()[1]
    return {"left": np.minimum(ball, COLUMNS - 1 - ball), "right": np.maximum(ball, COLUMNS - 1 - ball)}


def publish(store: TeacherStore, folder: Path, name: str, column: Array, *, seed: int) -> TeacherRecord:
    """A teacher with a measured score, and a buffer in which it has also made mistakes."""
    write_snapshot(folder / name, to_numpy(fitted(column, seed=seed).state_dict()), {})
    record = store.publish(
        NewTeacher(
            name=name,
            env=ENV,
            network=NETWORK,
            frame_shape=FRAME_SHAPE,
            frame_stack=1,
            num_actions=NUM_ACTIONS,
            weights=folder / name,
        )
    )
    record, _ = score_teacher(record, store, episodes=EPISODES, seed=0)
    spec = chunk_spec(ENV, 16, 5)
    return collect_experience(record, store, frames=COLLECTED_FRAMES, epsilons=(0.1, 0.3), seed=seed, spec=spec)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TeacherStore:
    root = tmp_path_factory.mktemp("two")
    store = TeacherStore(root / "teachers", bundled=None)
    for seed, (name, column) in enumerate(columns_wanted().items()):
        publish(store, root, name, column, seed=seed)
    return store


def scores(store: TeacherStore) -> list[float]:
    return [record.score.mean_return for record in store.list() if record.score is not None]


@pytest.mark.parametrize("combination", ["mixture", "value_gated"])
def test_the_student_of_two_half_blind_teachers_beats_both(
    combination: str, store: TeacherStore, tmp_path: Path
) -> None:
    config = small("qdagger_dqn", *RUN, f"teacher.combination={combination}")
    run = run_in_process(config, tmp_path / "run", store)
    assert tuple(phase["phase"] for phase in run.folder.phases()) == config.phases
    assert len(scores(store)) == 2
    assert min(scores(store)) > float(run.folder.manifest["random_score"]) + MARGIN
    assert run.mean_return > max(scores(store)) + MARGIN
    offline = run.folder.phases()[0]
    assert COLLECTED_FRAMES < offline["teacher_states"] / 2 <= 2 * COLLECTED_FRAMES  # each state of both buffers once
    named = [teacher["name"] for teacher in run.folder.manifest["teachers"]]
    assert named == ["left", "right"]
    assert [teacher["id"].rsplit("-", 1)[0] for teacher in summarise(run.folder)["teachers"]] == named


def gate_of(critic: QNetwork, *teachers: QNetwork) -> tuple[Array, Array]:
    """Which teacher the critic would follow in each state, int64 [S], and whether at all, bool [S]."""
    observations = torch.from_numpy(states()[0])
    with torch.no_grad():
        q_values = torch.stack([teacher(observations) for teacher in teachers], dim=1)
        chosen, gate = gated_teacher(q_values, critic(observations), TEMPERATURE, 0.0)
    return chosen.numpy(), gate.numpy()


def test_a_good_critic_follows_the_teacher_that_is_right_and_an_untrained_one_has_no_idea() -> None:
    _, ball, paddle = states()
    wanted = columns_wanted()
    left, right = (fitted(column, seed=number) for number, column in enumerate(wanted.values()))
    moves = {name: values_of_going_to(column, paddle).argmax(axis=1) for name, column in wanted.items()}
    in_left, in_right = (ball < COLUMNS // 2), (ball > COLUMNS // 2)
    differ = (moves["left"] != moves["right"]) & (in_left | in_right)
    assert differ.sum() > 100  # states: here the teachers disagree, and one of them is right
    expert = (ball > COLUMNS // 2).astype(np.int64)

    good = fitted(ball, seed=2)
    chosen, gate = gate_of(good, left, right)
    assert (chosen[differ] == expert[differ]).all()
    assert gate[differ].all()
    _, gate_of_left = gate_of(good, left)
    assert gate_of_left[in_left].all()
    assert not gate_of_left[differ & in_right].any()

    agreeing = 0
    for seed in range(20):
        chosen, _ = gate_of(untrained(seed), left, right)
        agreeing += np.count_nonzero(chosen[differ] == expert[differ])
    assert 0.35 < agreeing / (20 * np.count_nonzero(differ)) < 0.65
