"""A teacher that Dopamine wrote, from its files to a reincarnated student, with nothing done by hand.

    bundled teacher plays Pong in EnvPool under Dopamine's protocol -> Dopamine's own agent gets its weights and these
    transitions and saves a checkpoint with its replay buffer -> `upcycle teacher import` -> `upcycle run`

    make dopamine-teacher

Dopamine runs in an environment of its own, which `uv` makes: it needs a TensorFlow.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np

from actors.envs import EnvPoolLanes
from actors.policy import QPolicy, epsilon_greedy
from teacher_store.store.store import TeacherStore
from upcycle.config.run import EnvConfig
from upcycle.experience.chunks import Array
from upcycle.runs.snapshots import read_snapshot
from upcycle.streams import leavable_streams

ROOT: Final = Path(__file__).resolve().parent.parent
WORK: Final = ROOT / "runs" / "dopamine_teacher"
PACKAGES: Final = ("dopamine-rl==4.0.6", "tensorflow-cpu", "flax", "optax", "jax")
ITERATION: Final = 199
EPSILONS: Final = (0.01, 0.05, 0.2)
"""Exploration of its episodes, in turn."""


def play(env: EnvConfig, policy: QPolicy, *, steps: int, seed: int) -> dict[str, Array]:
    """Rows of Dopamine's replay buffer: newest frame, action, clipped reward, terminal, end of an episode; [steps]."""
    rng, episode = np.random.default_rng(seed), 0
    columns: dict[str, list[Any]] = {name: [] for name in ("frame", "action", "reward", "terminal", "episode_end")}
    with EnvPoolLanes(env, lanes=1, recv_batch=1, seed=seed, threads=1, training=True) as pool:
        while len(columns["reward"]) < steps:
            rows = pool.recv()
            if not rows.first[0]:
                columns["reward"].append(np.float32(np.clip(rows.reward[0], -1, 1)))
                columns["terminal"].append(np.uint8(rows.terminated[0]))
                columns["episode_end"].append(bool(rows.ended[0]))
            epsilon = EPSILONS[episode % len(EPSILONS)]
            action = epsilon_greedy(policy.q_values(rows.observation), epsilon, rng)
            if rows.ended[0]:
                episode += 1
            else:
                columns["frame"].append(rows.frame[0].copy())
                columns["action"].append(np.int32(action[0]))
            pool.send(action, rows.lane)
    return {name: np.array(values[:steps]) for name, values in columns.items()}


def flax_weights(tensors: dict[str, Array]) -> dict[str, Array]:
    """Weights of one of our nature networks under Dopamine's names and in Flax's layouts."""
    convolutions = sorted(
        (name for name in tensors if name.startswith("torso") and name.endswith("weight")), key=_layer
    )
    weights: dict[str, Array] = {}
    for number, name in enumerate(convolutions):
        weights[f"Conv_{number}/kernel"] = tensors[name].transpose(2, 3, 1, 0)
        weights[f"Conv_{number}/bias"] = tensors[name.replace("weight", "bias")]
    channels = len(tensors[convolutions[-1].replace("weight", "bias")])
    hidden = tensors["hidden.weight"]
    side = round((hidden.shape[1] / channels) ** 0.5)
    flat = hidden.reshape(len(hidden), channels, side, side).transpose(2, 3, 1, 0)
    weights |= {"Dense_0/kernel": flat.reshape(-1, len(hidden)), "Dense_0/bias": tensors["hidden.bias"]}
    return weights | {"Dense_1/kernel": tensors["head.weight"].T, "Dense_1/bias": tensors["head.bias"]}


def write_agent(folder: Path, *, steps: int) -> Path:
    """Lets the bundled teacher play and Dopamine save it; returns the checkpoint folder."""
    store = TeacherStore.default()
    record = store.get("pong-dqn-42")
    assert record.network is not None
    snapshot = read_snapshot(store.weights_path(record))
    protocol = {"sticky_actions": 0.25, "stack_fill": "zeros", "noop_max": 1, "fire_reset": False}
    env = record.env.model_copy(update=protocol)
    with EnvPoolLanes(env, lanes=1, recv_batch=1, seed=0, threads=1, training=True) as pool:
        policy = QPolicy(record.network, pool.spec, threads=1)
    policy.load(snapshot.tensors)
    source, target = folder / "source", folder / "checkpoints"
    source.mkdir(parents=True, exist_ok=True)
    np.savez(source / "weights.npz", allow_pickle=False, **flax_weights(dict(snapshot.tensors)))
    rows = play(env, policy, steps=steps, seed=1)
    np.savez(source / "steps.npz", allow_pickle=False, **rows, learner_steps=np.array(record.provenance.learner_steps))
    uv = [str(ROOT / ".tools/bin/uv"), "run", "-q", "--isolated", "--no-project", "--python", "3.11"]
    adapter = ROOT / "benchmarks/peers/adapters/dopamine_agent.py"
    packages = [part for package in PACKAGES for part in ("--with", package)]
    command = [*uv, *packages, "python", str(adapter), str(source), str(target), str(ITERATION)]
    subprocess.run(command, check=True, timeout=1800)
    return target


def _upcycle(*arguments: str, store: Path) -> dict[str, Any]:
    """One command of ours, as a user gives it, and the JSON value that it prints."""
    command = [sys.executable, "-m", "orchestrator.cli", *arguments, "--json"]
    print("upcycle " + " ".join(arguments), file=sys.stderr)
    environment = os.environ | {"UPCYCLE_TEACHERS": str(store)}
    run = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=7200, env=environment, cwd=ROOT)
    return json.loads(run.stdout.splitlines()[-1])


def _layer(name: str) -> int:
    return int(name.split(".")[1])


def main() -> None:
    """Prints what the teacher scored when it was imported, and what its student came to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=60_000, help="transitions that the teacher plays")
    parser.add_argument("--set", action="append", default=[], help="passed on to `upcycle run`")
    arguments = parser.parse_args()
    shutil.rmtree(WORK, ignore_errors=True)
    checkpoints, store = write_agent(WORK, steps=arguments.steps), WORK / "teachers"
    imported = _upcycle(
        "teacher", "import", str(checkpoints), "--name", "pong-dopamine", "--task", "Pong-v5",
        "--set", "env.frame_size=42", store=store,
    )  # fmt: skip
    changes = [part for change in ["teacher.id=pong-dopamine", *arguments.set] for part in ("--set", change)]
    summary = _upcycle(
        "run", "pong_cpu", "--name", "student", "--runs", str(WORK / "runs"), "--overwrite", *changes, store=store
    )
    print(json.dumps({"teacher": imported, "student": summary}))


if __name__ == "__main__":
    with leavable_streams():
        main()
