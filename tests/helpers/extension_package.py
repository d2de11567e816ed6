"""A distribution with an extension of each kind, installed as far as Python can tell; see `tests.helpers.installed`."""

import shutil
import sys
from pathlib import Path

import pytest

from upcycle.extensions import GROUPS

CODE = '''
import numpy as np
import torch
from torch import nn

import upcycle

CALLS = {"loss": 0, "torso": 0, "head": 0, "explore": 0, "lanes": 0}

@upcycle.loss_term
def entropy(inputs: upcycle.LossInputs, *, temperature: float = 1.0):
    """Against policies that are too sure."""
    CALLS["loss"] += 1
    log_policy = torch.log_softmax(inputs.outputs.q_values / temperature, dim=1)
    return (log_policy.exp() * log_policy).sum(dim=1)

@upcycle.torso
def two_layers(*, stack, frame_shape, width=16):
    CALLS["torso"] += 1
    return nn.Sequential(nn.Flatten(), nn.Linear(stack * frame_shape[0], width), nn.Tanh()), width

@upcycle.head
def scaled(*, hidden, num_actions, atoms, scale=1.0):
    CALLS["head"] += 1
    layer = nn.Linear(hidden, num_actions * atoms)
    nn.init.constant_(layer.bias, scale)
    return layer

@upcycle.exploration
class Softmax:
    """Draws from the softmax of the Q values, ever greedier."""

    def __init__(self, *, lanes, num_actions, seed, temperature=0.1):
        self.rng, self.temperature = np.random.default_rng(seed), temperature

    def choose(self, q_values, lane, first, *, epsilon):
        CALLS["explore"] += 1
        noise = self.rng.gumbel(size=q_values.shape)
        return (q_values / (self.temperature + epsilon) + noise).argmax(axis=1)

@upcycle.environment
class Repeat:
    """Shows a number, which is the action that gets a point; five times an episode."""

    def spec(self, env):
        return upcycle.EnvSpec((4,), "float32", int(env.factory_options.get("actions", 4)), stack=1, frame_skip=1)

    def make(self, env, *, lanes, recv_batch, seed, threads, training):
        return RepeatLanes(self.spec(env), lanes, seed)

class RepeatLanes:
    def __init__(self, spec, lanes, seed):
        self.spec, self.lanes, self.rng = spec, lanes, np.random.default_rng(seed)
        self.age, self.shown = np.zeros(lanes, int), self.rng.integers(4, size=lanes)
        self.reward, self.first = np.zeros(lanes, np.float32), np.ones(lanes, bool)
        self.ended = np.zeros(lanes, bool)

    def recv(self):
        CALLS["lanes"] += 1
        return upcycle.LaneRows(
            lane=np.arange(self.lanes, dtype=np.int32),
            observation=np.eye(4, dtype=np.float32)[self.shown][:, None],
            reward=self.reward,
            terminated=self.ended,
            truncated=np.zeros(self.lanes, bool),
            first=self.first,
            game_over=self.ended,
            lives=np.zeros(self.lanes, np.int32),
        )

    def send(self, actions, lane):
        self.first = self.ended
        self.reward = np.where(self.first, 0, actions == self.shown).astype(np.float32)
        self.age = np.where(self.first, 0, self.age + 1)
        self.ended = self.age == 5
        self.shown = self.rng.integers(4, size=self.lanes)

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

def unmarked(inputs):
    return inputs.discount

@upcycle.loss_term
def of_the_batch(inputs):
    return inputs.discount.mean()

@upcycle.loss_term
def fails(inputs, *, level=1):
    raise RuntimeError(f"no idea at level {level}")

@upcycle.torso
def not_a_pair(*, stack, frame_shape):
    return nn.Flatten()

@upcycle.torso
def wrong_size(*, stack, frame_shape):
    return nn.Flatten(), 7

@upcycle.head
def too_narrow(*, hidden, num_actions, atoms):
    return nn.Linear(hidden, num_actions * atoms - 1)

@upcycle.exploration
def all_too_high(*, lanes, num_actions, seed):
    class High:
        def choose(self, q_values, lane, first, *, epsilon):
            return np.full(len(lane), num_actions)
    return High()

@upcycle.environment
class Broken(Repeat):
    def make(self, env, **arguments):
        raise OSError("no such simulator")

@upcycle.environment
class OtherShape(Repeat):
    def spec(self, env):
        return upcycle.EnvSpec((5,), "float32", 4, stack=1, frame_skip=1)
'''
MODULE = "extensions_of_tests"
ENTRY_POINTS = {
    "loss_term": {"entropy": "entropy"},
    "torso": {"two_layers": "two_layers", "missing": "no_such_torso"},
    "head": {"scaled": "scaled"},
    "exploration": {"softmax": "Softmax"},
    "environment": {"repeat": "Repeat"},
}


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, *, version: str = "1.2") -> None:
    """Makes the module and its entry points known."""
    info = folder / f"extensions_of_tests-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: extensions-of-tests\nVersion: {version}\n")
    lines = list[str]()
    for kind, group in GROUPS.items():
        lines += [f"[{group}]", *(f"{name} = {MODULE}:{attribute}" for name, attribute in ENTRY_POINTS[kind].items())]
    (info / "entry_points.txt").write_text("\n".join([*lines, ""]))
    (info / "top_level.txt").write_text(f"{MODULE}\n")
    (folder / f"{MODULE}.py").write_text(CODE)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)


def uninstall(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes them away again."""
    shutil.rmtree(folder)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
