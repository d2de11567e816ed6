"""Ask the bundled Pong teacher what it thinks of what it sees, and let it play a game.

python examples/teacher_values.py
"""

import numpy as np

import upcycle


def main() -> None:
    """Lists teachers, loads one, asks it for action values."""
    for record in upcycle.list_teachers():
        print(f"{record.id}: {record.env.task}, {record.describe_policy()}")
    teacher = upcycle.load_teacher("pong-dqn-42")
    shape = teacher.observation_shape  # (stack, height, width)
    observations = np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8)
    values = teacher.values(observations)  # NumPy in, NumPy out
    for name, value in zip(teacher.record.actions, values[0], strict=True):
        print(f"{name:12} {value:6.3f}")

    env = teacher.record.env.model_copy(update={"max_episode_steps": 200})  # the first points of a game
    games = upcycle.evaluate(teacher, env=env, episodes=2, seed=1)
    print(f"mean return of {len(games.returns)} openings: {games.mean_return:.1f}")


if __name__ == "__main__":
    main()
