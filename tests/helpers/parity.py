"""How near imported agents are to their own frameworks: `python -m tests.helpers.parity` prints it of each."""

import tempfile
from pathlib import Path
from typing import Final

import numpy as np
import torch

from teacher_store.importers.imported import ImportedAgent, Importer, Request
from teacher_store.importers.readers.source_files import SourceFiles
from teacher_store.importers.registry import IMPORTERS
from tests.helpers.fixture_files import reference, unzip
from tests.helpers.paths import FIXTURES
from upcycle.errors import UserError
from upcycle.networks.q_network import build_network
from upcycle.networks.torch_io import load_into

BY_FOLDER: Final[dict[str, Importer]] = {importer.name.replace("-", "_"): importer for importer in IMPORTERS}


def read(source: SourceFiles, importer: Importer, request: Request | None = None) -> ImportedAgent:
    """The agent of a source."""
    assert importer.read_agent is not None
    return importer.read_agent(source, request or Request())


def imported(fixture: str, folder: Path) -> ImportedAgent:
    """The agent of a fixture, whose files come into `folder`."""
    return read(SourceFiles(unzip(fixture, folder)), BY_FOLDER[fixture.split("/")[0]])


def largest_difference(agent: ImportedAgent, fixture: str) -> float:
    """Of the agent's outputs and those that its framework computed for the same observations, absolute."""
    known = reference(fixture)
    observations = known["observations"]
    if fixture.startswith("dopamine"):  # channels last
        observations = np.ascontiguousarray(observations.transpose(0, 3, 1, 2))
    assert agent.frame_shape == observations.shape[2:]
    network = build_network(
        agent.network, frame_shape=agent.frame_shape, stack=agent.frame_stack, num_actions=agent.num_actions
    )
    load_into(network, agent.tensors)
    with torch.inference_mode():
        found = network.eval()(torch.from_numpy(observations)).numpy()
    assert np.ptp(known["q_values"], axis=0).min() > 1e-3, "a reference whose values hardly differ proves nothing"
    return float(np.abs(found - known["q_values"]).max())


def main() -> None:
    """Prints the largest difference of each fixture that has a reference, and of all."""
    found = dict[str, float]()
    for path in sorted(FIXTURES.glob("*/*/reference.npz")):
        fixture = f"{path.parent.parent.name}/{path.parent.name}"
        try:
            with tempfile.TemporaryDirectory() as folder:
                found[fixture] = largest_difference(imported(fixture, Path(folder)), fixture)
        except UserError as error:  # there is an agent that is to be refused
            print(f"refused {fixture}: {error.problem[:60]}")
            continue
        print(f"{found[fixture]:.1e} {fixture}")
    print(f"{max(found.values()):.1e} of {len(found)} agents")


if __name__ == "__main__":
    main()
