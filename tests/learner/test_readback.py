"""Values from the device to the host, in order, none lost."""

import numpy as np
import pytest
import torch

from learner.readback import Readback
from upcycle.experience.chunks import Array


def test_on_a_cpu_values_are_there_at_once() -> None:
    readback, got = Readback(torch.device("cpu")), list[Array]()
    readback.push(torch.arange(3.0), got.append)
    np.testing.assert_array_equal(got[0], [0.0, 1.0, 2.0])
    readback.flush()
    assert len(got) == 1


@pytest.mark.gpu
def test_on_cuda_values_come_in_order_and_none_is_lost() -> None:
    device = torch.device("cuda")
    readback, got = Readback(device), list[Array]()
    for number in range(100):
        readback.push(torch.full((4,), float(number), device=device) @ torch.eye(4, device=device), got.append)
    readback.flush()
    assert [float(values[0]) for values in got] == list(range(100))
