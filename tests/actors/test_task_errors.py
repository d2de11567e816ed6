import pytest

from actors.task_errors import nearest_tasks

KNOWN = ["Pong-v5", "Catch-v0", "phys2d/Pendulum-v0", "Pendulum-v0", "Pendulum-v1", "MsPacman-v5", "Breakout-v5"]


@pytest.mark.parametrize(
    ("task", "meant"),
    [
        ("PongNoFrameskip-v4", ["Pong-v5"]),
        ("PongDeterministic-v0", ["Pong-v5"]),
        ("Pong-ramNoFrameskip-v4", ["Pong-v5"]),
        ("ALE/Pong-v5", ["Pong-v5"]),
        ("pong", ["Pong-v5"]),
        ("ms_pacman", ["MsPacman-v5"]),
        ("Pendulum-v2", ["Pendulum-v1", "Pendulum-v0", "phys2d/Pendulum-v0"]),
        ("Cach-v0", ["Catch-v0"]),
        ("Brekout-v4", ["Breakout-v5"]),
        ("NoSuch-v0", []),
        ("", []),
        ("-v4", []),
    ],
)
def test_the_task_that_is_meant_is_found(task: str, meant: list[str]):
    assert list(nearest_tasks(task, KNOWN)) == meant
