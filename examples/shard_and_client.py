"""A replay shard in this process, a client that adds transitions one by one, and prioritised sampling.

python examples/shard_and_client.py
"""

import numpy as np

import upcycle


def main() -> None:
    """Adds a random walk to replay and samples 2-step returns."""
    rng = np.random.default_rng(0)
    with (
        upcycle.start_replay(frame_shape=(1,), num_actions=2, max_n_step=2, sampler="proportional", seed=0) as server,
        server.client() as replay,
    ):
        position = 0.0
        for step in range(500):
            action = int(rng.integers(2))
            following = position + (1 if action else -1)
            frame, next_frame = (np.array([place], np.float32) for place in (position, following))
            done = abs(following) == 3
            replay.add(upcycle.Transition(frame, action, following, next_frame, terminated=done, truncated=step == 499))
            position = 0.0 if done else following
        replay.flush()
        print(f"stored: {replay.stats().num_transitions}")

        drawn = replay.sample(64, n_step=2, gamma=0.9, importance_sampling_exponent=0.5)
        batch = drawn.transitions
        print(f"observations {batch.observation.shape}, mean 2-step return {batch.n_step_return.mean():.2f}")
        replay.update_priorities(drawn.keys, np.abs(batch.n_step_return.astype(np.float64)) + 1e-3)
        again = replay.sample(64, n_step=2, gamma=0.9)
        print(f"after new priorities {again.transitions.n_step_return.mean():.2f}")


if __name__ == "__main__":
    main()
