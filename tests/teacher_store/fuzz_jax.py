"""Mutates genuine files of Dopamine and CleanRL for as long as one likes: `python -m tests.teacher_store.fuzz_jax`.

Whatever the bytes, an importer may recognise a source or not, read it, or refuse it with UserError or CorruptDataError;
anything else is a finding. `test_jax_fuzz` does the same with few examples.
"""

import argparse
import random
import tempfile
import time
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Final

from teacher_store.importers import cleanrl_jax, dopamine_jax, dopamine_tf
from teacher_store.importers.imported import Importer, Request
from teacher_store.importers.source import Source
from tests.teacher_store.fixture_files import unzip
from upcycle.errors import CorruptDataError, UserError
from upcycle.networks import build_network
from upcycle.torch_io import load_into

TARGETS: Final[dict[str, tuple[Importer, str]]] = {
    "dopamine_jax/nature-42": (dopamine_jax.IMPORTER, "ckpt.3"),
    "dopamine_jax/nature-frozen": (dopamine_jax.IMPORTER, "ckpt.3"),
    "dopamine_jax/nature-before-linen": (dopamine_jax.IMPORTER, "ckpt.3"),
    "dopamine_jax/full-rainbow-noisy": (dopamine_jax.IMPORTER, "ckpt.3"),
    "dopamine_jax/impala": (dopamine_jax.IMPORTER, "ckpt.3"),
    "dopamine_tf/keras-42": (dopamine_tf.IMPORTER, "tf_ckpt-3.index"),
    "dopamine_tf/slim": (dopamine_tf.IMPORTER, "tf_ckpt-3.index"),
    "cleanrl_jax/nature-chunked": (cleanrl_jax.IMPORTER, "nature-chunked.cleanrl_model"),
    "cleanrl_jax/c51": (cleanrl_jax.IMPORTER, "c51.cleanrl_model"),
    "cleanrl_jax/impala": (cleanrl_jax.IMPORTER, "impala.cleanrl_model"),
}
"""Importer, and which file of the fixture is mutated."""
_INTERESTING: Final = (
    b"\x00",
    b"\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"N",
    b"}",
    b")",
    b".",
)


def structure(data: bytes) -> list[tuple[int, int]]:
    """Stretches of the file that are no long runs of numbers: near a name of layers, or at either end.

    Most bytes are weights, where a mutation only makes another weight.
    """
    marks = (
        b"Conv",
        b"Dense",
        b"Noisy",
        b"numpy",
        b"jax",
        b"optax",
        b"params",
        b"float32",
        b"state",
        b"chunk",
        b"Online",
    )
    places = {0, max(0, len(data) - 200)}
    for mark in marks:
        at = data.find(mark)
        while at >= 0 and len(places) < 400:
            places.add(max(0, at - 60))
            at = data.find(mark, at + 1)
    return [(place, min(len(data), place + 200)) for place in sorted(places)]


def mutate(data: bytes, rng: random.Random, stretches: list[tuple[int, int]]) -> bytes:
    """One to four changes: bits, bytes, pieces left out, doubled or moved, ends cut off."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        low, high = rng.choice(stretches)
        at = min(rng.randrange(low, max(low + 1, high)), max(0, len(changed) - 1))
        kind = rng.randrange(6)
        if kind == 0 and changed:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and changed:
            changed[at] = rng.randrange(256)
        elif kind == 2:
            piece = rng.choice(_INTERESTING)
            changed[at : at + len(piece)] = piece
        elif kind == 3:
            del changed[at : at + rng.randrange(1, 40)]
        elif kind == 4:
            other, _ = rng.choice(stretches)
            changed[at:at] = data[other : other + rng.randrange(1, 40)]
        elif rng.random() < 0.1:
            del changed[at:]
    return bytes(changed)


def attempt(importer: Importer, path: Path) -> str:
    """What came of a source: the name of the outcome. Raises whatever a reader may not."""
    source = Source(path)
    importer.recognises(source)
    assert importer.read_agent is not None
    try:
        agent = importer.read_agent(source, Request())
    except (CorruptDataError, UserError) as error:
        return type(error).__name__
    assert agent is not None
    network = build_network(
        agent.network, frame_shape=agent.frame_shape, stack=agent.frame_stack, num_actions=agent.num_actions
    )
    load_into(network, agent.tensors)
    return "read"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, deadline, outcomes = random.Random(arguments.seed), time.monotonic() + 60 * arguments.minutes, Counter[str]()
    slowest = largest = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        files = {fixture: unzip(fixture, Path(temporary) / fixture) / name for fixture, (_, name) in TARGETS.items()}
        genuine = {fixture: path.read_bytes() for fixture, path in files.items()}
        stretches = {fixture: structure(data) for fixture, data in genuine.items()}
        while time.monotonic() < deadline:
            fixture = rng.choice(list(TARGETS))
            importer, path = TARGETS[fixture][0], files[fixture]
            path.write_bytes(mutate(genuine[fixture], rng, stretches[fixture]))
            began = time.monotonic()
            try:
                if outcomes.total() % 20 == 0:
                    tracemalloc.start()
                outcomes[f"{importer.name} {attempt(importer, path)}"] += 1
                largest = max(largest, tracemalloc.get_traced_memory()[1] / 1e6)
                tracemalloc.stop()
            except Exception:
                finding = Path(f"finding-{importer.name}-{outcomes.total()}.bin")
                finding.write_bytes(path.read_bytes())
                print(f"finding: {fixture}, kept as {finding}")
                raise
            slowest = max(slowest, time.monotonic() - began)
    print(f"{outcomes.total()} files, slowest {slowest:.2f} s, at most {largest:.1f} MB of memory")
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:8} {outcome}")


if __name__ == "__main__":
    main()
