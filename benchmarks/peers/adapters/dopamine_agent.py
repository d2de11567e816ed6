"""Lets Dopamine itself write an agent: its JAX DQN agent gets weights and experience, and saves a checkpoint of both.

Runs in an environment of its own (`benchmarks.dopamine_teacher` starts it): only dopamine-rl 4.0.6 and what it needs.
"""

import os
import sys
import types

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf

if not hasattr(tf, "estimator"):  # gin.tf asks for it, newer TensorFlows have dropped it
    tf.estimator = types.SimpleNamespace(SessionRunHook=object)
    sys.modules["tensorflow.estimator"] = tf.estimator
    tf.compat.v1.estimator = tf.estimator

import jax
import jax.interpreters.xla
import jax.numpy as jnp

if not hasattr(jax.interpreters.xla, "DeviceArray"):  # a type that Dopamine names and newer JAXs call otherwise
    jax.interpreters.xla.DeviceArray = jax.Array

from dopamine.discrete_domains import atari_lib, checkpointer
from dopamine.jax import networks
from dopamine.jax.agents.dqn import dqn_agent
from dopamine.replay_memory import circular_replay_buffer
from flax import linen as nn


class NarrowNatureNetwork(nn.Module):
    """Dopamine's Nature network with other widths; the same names and the same preprocessing."""

    num_actions: int
    channels: tuple[int, int, int]
    hidden: int

    @nn.compact
    def __call__(self, x):
        """Q values of one observation, [H, W, 4]."""
        x = networks.preprocess_atari_inputs(x)
        for features, kernel, stride in zip(self.channels, (8, 4, 3), (4, 2, 1), strict=True):
            x = nn.relu(nn.Conv(features=features, kernel_size=(kernel, kernel), strides=(stride, stride))(x))
        x = nn.relu(nn.Dense(features=self.hidden)(x.reshape(-1)))
        return atari_lib.DQNNetworkType(nn.Dense(features=self.num_actions)(x))


def make_agent(num_actions, shape, channels, hidden, *, capacity):
    """A JAX DQN agent whose replay buffer holds so many rows."""

    class Agent(dqn_agent.JaxDQNAgent):
        def _build_replay_buffer(self):  # the real class, without the wrapper that builds a TensorFlow graph around it
            return circular_replay_buffer.OutOfGraphReplayBuffer(
                observation_shape=self.observation_shape,
                stack_size=self.stack_size,
                replay_capacity=capacity,
                batch_size=32,
                update_horizon=self.update_horizon,
                gamma=self.gamma,
                observation_dtype=self.observation_dtype,
            )

    return Agent(
        num_actions,
        observation_shape=shape,
        stack_size=4,
        network=lambda num_actions: NarrowNatureNetwork(num_actions, channels, hidden),
        seed=0,
    )


def main(source: str, target: str, iteration: int) -> None:
    """Reads `weights.npz` and `steps.npz` from `source`; writes a checkpoint folder `target`."""
    weights = dict(np.load(os.path.join(source, "weights.npz")))
    steps = dict(np.load(os.path.join(source, "steps.npz")))
    num_actions = len(weights["Dense_1/bias"])
    channels = tuple(len(weights[f"Conv_{layer}/bias"]) for layer in range(3))
    hidden = len(weights["Dense_0/bias"])
    rows, height, width = steps["frame"].shape
    agent = make_agent(num_actions, (height, width), channels, hidden, capacity=int(rows * 0.9))
    params = {}
    for name, array in weights.items():
        layer, part = name.split("/")
        params.setdefault(layer, {})[part] = jnp.asarray(array)
    expected = agent.online_params["params"]
    for layer, parts in expected.items():
        for part, array in parts.items():
            assert params[layer][part].shape == array.shape, (layer, part, params[layer][part].shape, array.shape)
    tree = type(agent.online_params)({"params": params})
    agent.online_params = agent.target_network_params = tree
    agent.training_steps = int(steps["learner_steps"])
    for row in range(rows):
        agent._replay.add(
            steps["frame"][row],
            steps["action"][row],
            steps["reward"][row],
            steps["terminal"][row],
            episode_end=bool(steps["episode_end"][row]),
        )
    os.makedirs(target, exist_ok=True)
    saver = checkpointer.Checkpointer(target, checkpoint_file_prefix="ckpt")
    bundle = agent.bundle_and_checkpoint(target, iteration)
    saver.save_checkpoint(iteration, {**bundle, "current_iteration": iteration, "logs": {}})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
