"""Mutates genuine files of other frameworks for as long as one likes: `python -m tests.helpers.fuzz`.

Whatever the bytes, an importer may recognise a source or not, read it, or refuse it with UserError or CorruptDataError;
anything else is a finding. Archives and gzip files are mutated as they are, and inside, with their checksums mended, so
that the readers behind are reached. `test_jax_fuzz` and `test_torch_fuzz` do the same with few examples.
"""

import argparse
import gzip
import io
import random
import tempfile
import time
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from teacher_store.importers.formats import (
    cleanrl_jax,
    cleanrl_torch,
    dopamine_jax,
    dopamine_tf,
    gogianu,
    stable_baselines3,
)
from teacher_store.importers.imported import Importer, Request
from teacher_store.importers.readers.source_files import SourceFiles
from tests.helpers.fixture_files import unzip
from upcycle.errors import CorruptDataError, UserError
from upcycle.networks.q_network import build_network
from upcycle.networks.torch_io import load_into


@dataclass(frozen=True, slots=True)
class Part:
    """Some of a file: its bytes, and the file that has others in their place."""

    data: bytes
    rebuild: Callable[[bytes], bytes]


def whole(data: bytes) -> list[Part]:
    return [Part(data, bytes)]


def entries(data: bytes) -> list[Part]:
    """Of an archive; those of PyTorch's archives inside, too."""
    parts = whole(data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}

    def rebuilt(name: str, changed: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for each, content in contents.items():
                archive.writestr(each, changed if each == name else content)
        return buffer.getvalue()

    def inner_parts(name: str, content: bytes) -> list[Part]:
        parts = entries(content) if name == "policy.pth" else whole(content)
        return [Part(part.data, lambda changed, part=part: rebuilt(name, part.rebuild(changed))) for part in parts]

    return parts + [part for name, content in contents.items() for part in inner_parts(name, content)]


def inside_gzip(parts_of: Callable[[bytes], list[Part]]) -> Callable[[bytes], list[Part]]:
    """The parts of what a gzip file holds, and the file itself."""

    def parts(data: bytes) -> list[Part]:
        inner = parts_of(gzip.decompress(data))
        return whole(data) + [
            Part(part.data, lambda changed, part=part: gzip.compress(part.rebuild(changed), 1)) for part in inner
        ]

    return parts


TARGETS: Final[dict[str, tuple[Importer, str, Callable[[bytes], list[Part]]]]] = {
    "dopamine_jax/nature-42": (dopamine_jax.IMPORTER, "ckpt.3", whole),
    "dopamine_jax/nature-frozen": (dopamine_jax.IMPORTER, "ckpt.3", whole),
    "dopamine_jax/nature-before-linen": (dopamine_jax.IMPORTER, "ckpt.3", whole),
    "dopamine_jax/full-rainbow-noisy": (dopamine_jax.IMPORTER, "ckpt.3", whole),
    "dopamine_jax/impala": (dopamine_jax.IMPORTER, "ckpt.3", whole),
    "dopamine_tf/keras-42": (dopamine_tf.IMPORTER, "tf_ckpt-3.index", whole),
    "dopamine_tf/slim": (dopamine_tf.IMPORTER, "tf_ckpt-3.index", whole),
    "cleanrl_jax/nature-chunked": (cleanrl_jax.IMPORTER, "nature-chunked.cleanrl_model", whole),
    "cleanrl_jax/c51": (cleanrl_jax.IMPORTER, "c51.cleanrl_model", whole),
    "cleanrl_jax/impala": (cleanrl_jax.IMPORTER, "impala.cleanrl_model", whole),
    "cleanrl_torch/nature": (cleanrl_torch.IMPORTER, "nature.cleanrl_model", entries),
    "cleanrl_torch/c51": (cleanrl_torch.IMPORTER, "c51.cleanrl_model", entries),
    "cleanrl_torch/ppo": (cleanrl_torch.IMPORTER, "ppo.cleanrl_model", entries),
    "cleanrl_torch/impala": (cleanrl_torch.IMPORTER, "impala.cleanrl_model", entries),
    "gogianu/dqn-zip": (gogianu.IMPORTER, "model_50000000.gz", inside_gzip(entries)),
    "gogianu/c51-legacy": (gogianu.IMPORTER, "model_50000000.gz", inside_gzip(whole)),
    "stable_baselines3/dqn": (stable_baselines3.IMPORTER, "dqn.zip", entries),
    "stable_baselines3/ppo": (stable_baselines3.IMPORTER, "ppo.zip", entries),
}
"""Importer, which file of the fixture is mutated, and what its parts are."""
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
        b"torch",
        b"storage",
        b"network",
        b"features",
        b"PK",
        b'": ',
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


def choose_part(parts: list[Part], rng: random.Random) -> int:
    """Which part to mutate: most often one without long runs of numbers, as pickles and settings are."""
    dense = [index for index, part in enumerate(parts) if b"torch" in part.data[:4096] or b'": ' in part.data[:4096]]
    return rng.choice(dense if dense and rng.random() < 0.7 else range(len(parts)))


def attempt(importer: Importer, path: Path) -> str:
    """What came of a source: the name of the outcome. Raises whatever a reader may not."""
    source = SourceFiles(path)
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
    parser.add_argument("--importer", help="of this name alone", choices=sorted({t[0].name for t in TARGETS.values()}))
    arguments = parser.parse_args()
    targets = {name: target for name, target in TARGETS.items() if arguments.importer in (None, target[0].name)}
    rng, deadline, outcomes = random.Random(arguments.seed), time.monotonic() + 60 * arguments.minutes, Counter[str]()
    slowest = largest = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        files = {fixture: unzip(fixture, Path(temporary) / fixture) / name for fixture, (_, name, _) in targets.items()}
        parts = {fixture: targets[fixture][2](path.read_bytes()) for fixture, path in files.items()}
        stretches = {fixture: [structure(part.data) for part in found] for fixture, found in parts.items()}
        while time.monotonic() < deadline:
            fixture = rng.choice(list(targets))
            importer, path = targets[fixture][0], files[fixture]
            which = choose_part(parts[fixture], rng)
            part = parts[fixture][which]
            path.write_bytes(part.rebuild(mutate(part.data, rng, stretches[fixture][which])))
            began = time.monotonic()
            try:
                if outcomes.total() % 20 == 0:
                    tracemalloc.start()
                outcomes[f"{importer.name} {attempt(importer, path)}"] += 1
                if tracemalloc.is_tracing():
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
