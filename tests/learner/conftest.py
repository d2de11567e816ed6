"""What tests of the learner share."""

from pathlib import Path

import pytest

from teacher_store.teacher import Teacher
from tests.helpers.cartpole_learner import publish_random_teacher, random_experience


@pytest.fixture(scope="session")
def experience() -> list[bytes]:
    """Two thousand random steps of CartPole, as chunks."""
    return random_experience()


@pytest.fixture
def teacher(tmp_path: Path) -> Teacher:
    """A network of another shape than the student's, with random weights."""
    return publish_random_teacher(tmp_path)
