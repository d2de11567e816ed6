"""Extensions are called once before a run begins, so that what they lack costs seconds and not a run."""

import numpy as np
import torch

from actors.envs import env_spec, make_lanes
from actors.exploration import make_exploration
from learner.loss_terms import try_terms
from upcycle.config.extension_use import extensions_of_run, record_extensions
from upcycle.config.run import RunConfig
from upcycle.errors import UserError
from upcycle.experience.chunks import Array
from upcycle.networks.q_network import QNetwork, build_network
from upcycle.runs.run_folder import Record

_ROWS = 3


def describe_extensions(config: RunConfig) -> list[Record]:
    """The extensions of a run and where they are from, for its manifest."""
    return [known.model_dump() for known in record_extensions(extensions_of_run(config))]


def try_extensions(config: RunConfig) -> None:
    """Calls every extension of a run, with made-up observations where its environment is EnvPool's.

    Raises: UserError naming field, value and remedy for one that cannot be loaded, fails, or does something else than
      its kind must.
    """
    spec = env_spec(config.env)
    observation = np.zeros((_ROWS, spec.stack, *spec.frame_shape), spec.frame_dtype)
    if config.env.factory:
        observation = _first_rows(config)
    if config.network.custom_torso or config.network.custom_head or config.loss_terms:
        try:
            with torch.random.fork_rng(devices=[]):
                network = build_network(
                    config.network, frame_shape=spec.frame_shape, stack=spec.stack, num_actions=spec.num_actions
                )
        except UserError:
            raise
        except ValueError:  # network.kind does not see such frames: that is checked with or without extensions
            return
        _try_network(config, network, torch.from_numpy(observation), num_actions=spec.num_actions)
        try_terms(config, network, torch.from_numpy(observation), num_actions=spec.num_actions)
    if config.actors.exploration:
        explore = make_exploration(config.actors, num_actions=spec.num_actions, seed=0)
        lane = np.arange(min(config.actors.lanes, _ROWS))
        values = np.zeros((len(lane), spec.num_actions), np.float32)
        explore.choose(values, lane, np.ones(len(lane), bool), epsilon=1.0)


def _first_rows(config: RunConfig) -> Array:
    """The observations that open the lanes of the user's own environment."""
    spec, reference = env_spec(config.env), config.env.factory
    with make_lanes(config.env, lanes=2, recv_batch=2, seed=0, threads=1, training=True) as lanes:
        rows = lanes.recv()
        lanes.send(np.zeros(2, np.int64), rows.lane)
        lanes.recv()
    expected = (2, spec.stack, *spec.frame_shape)
    if rows.observation.shape != expected or rows.observation.dtype != spec.frame_dtype:
        problem = (
            f"gave observations {rows.observation.dtype} {list(rows.observation.shape)}, "
            f"its spec says {spec.frame_dtype} {list(expected)}"
        )
        raise UserError("env.factory", reference, problem, "mend it")
    if not rows.first.all():
        raise UserError("env.factory", reference, "gave first rows that open no episode", "set `first` in them")
    return rows.observation


def _try_network(config: RunConfig, network: QNetwork, observation: torch.Tensor, *, num_actions: int) -> None:
    atoms = config.network.atoms if config.network.head == "c51" else 1
    field = "network.custom_torso" if config.network.custom_torso else "network.custom_head"
    reference = config.network.custom_torso or config.network.custom_head
    try:
        with torch.no_grad():
            outputs = network.outputs(observation)
    except Exception as error:  # foreign code may raise anything
        problem = f"cannot see observations {list(observation.shape)} ({type(error).__name__}: {error})"
        raise UserError(field, reference, problem, "mend it") from error
    if outputs.q_values.shape != (len(observation), num_actions):
        problem = f"gives {list(outputs.q_values.shape)} instead of {num_actions} actions x {atoms} atoms"
        raise UserError("network.custom_head", config.network.custom_head, problem, "mend it")
