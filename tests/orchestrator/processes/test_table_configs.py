import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.processes.table_configs import annotation_width, share_capacity
from tests.helpers.runs import catch
from upcycle.config.teacher_use import has_teacher, wants_teacher_log, wants_teacher_table

TAUGHT = ("phases=offline,online,rl", "teacher.id=any")


@pytest.mark.parametrize(
    ("overrides", "num_teachers", "width"),
    [
        (TAUGHT, 1, 3),
        (TAUGHT, 2, 6),
        (("phases=online", "teacher.id=any"), 1, 3),
        ((*TAUGHT, "distillation.coefficient=0"), 1, 0),
        ((*TAUGHT, "distillation.coefficient=0", "margin.coefficient=1"), 1, 3),
        (("phases=rl", "teacher.id=any", "teacher.reload=weights"), 1, 0),
        (("phases=rl",), 0, 0),
    ],
)
def test_states_are_annotated_where_a_loss_term_is_made_of_the_teachers_values(
    overrides: tuple[str, ...], num_teachers: int, width: int
):
    assert annotation_width(catch(*overrides), num_actions=3, num_teachers=num_teachers) == width


@pytest.mark.parametrize(
    ("overrides", "teacher", "log", "table"),
    [
        (("phases=rl",), False, False, False),
        (("phases=rl", "teacher.id=any"), False, False, False),
        (("phases=rl", "teacher.id=any", "teacher.reload=weights"), True, False, False),
        (("phases=rl", "teacher.id=any", "teacher.reload=weights_and_replay"), True, True, False),
        (("phases=online,rl", "teacher.id=any"), True, False, False),
        (("phases=online,rl", "teacher.id=any", "online.teacher_fraction=0.5"), True, True, True),
        (("phases=offline", "teacher.id=any"), True, True, True),
    ],
)
def test_what_a_run_wants_of_its_teacher(overrides: tuple[str, ...], teacher: bool, log: bool, table: bool):
    config = catch(*overrides)
    assert (has_teacher(config), wants_teacher_log(config), wants_teacher_table(config)) == (teacher, log, table)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(sizes=st.lists(st.integers(0, 50), max_size=5), capacity=st.integers(0, 200))
def test_buffers_share_the_capacity_evenly_and_waste_none(sizes: list[int], capacity: int):
    shares = share_capacity(sizes, capacity)
    assert sum(shares) == min(capacity, sum(sizes))
    assert all(0 <= share <= size for share, size in zip(shares, sizes, strict=True))
    cut = [share for share, size in zip(shares, sizes, strict=True) if share < size]
    assert not cut or max(shares) - min(cut) <= 1
