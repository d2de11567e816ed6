"""The wire form of chunks: what goes in comes out, and nothing else gets in."""

import json
import struct
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zlib_ng import zlib_ng

from tests.helpers.lanes import cut_chunks, make_lane
from upcycle.errors import CorruptDataError
from upcycle.experience.chunks import COLUMNS, MAX_PRIORITY, Chunk, ChunkSpec, Codec, decode_chunk, encode_chunk

SPEC = ChunkSpec(frame_shape=(3, 2), frame_dtype="uint8", num_actions=5, steps=8, history=3, lookahead=2)
PREFIX = struct.Struct("<4sHHI")


def make_chunk(spec: ChunkSpec = SPEC, *, steps: int = 30) -> Chunk:
    return cut_chunks(spec, make_lane(spec, [steps], ["terminated"], seed=4), policy_version=7)[0][0]


def replace_header(data: bytes, change: dict[str, list[object]]) -> bytes:
    """The same bytes under a header that claims something else about some columns."""
    magic, version, reserved, size = PREFIX.unpack_from(data)
    entries = json.loads(data[PREFIX.size : PREFIX.size + size])
    header = json.dumps([change.get(str(entry[0]), entry) for entry in entries]).encode()
    return with_checksum(PREFIX.pack(magic, version, reserved, len(header)) + header + data[PREFIX.size + size : -4])


def with_checksum(data: bytes | bytearray) -> bytes:
    return bytes(data) + struct.pack("<I", zlib_ng.crc32(data))


def encode_version_1(chunk: Chunk) -> bytes:
    """As the first release wrote chunks into its logs."""
    arrays = {"frame": chunk.frame, **{name: chunk.columns[name] for name in COLUMNS}}
    header = json.dumps([[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()]).encode()
    body = b"".join(array.tobytes() for array in arrays.values())
    return struct.pack("<4sHHI", b"UPCH", 1, 0, len(header)) + header + body


@pytest.mark.parametrize("steps", [1, 4, 30])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("codec", ["none", "lz4", "version 1"])
def test_round_trip_keeps_every_value_and_dtype(steps: int, dtype: str, codec: Codec | str) -> None:
    spec = ChunkSpec(frame_shape=(3, 2), frame_dtype=dtype, num_actions=5, steps=8, history=3, lookahead=2)
    chunk = make_chunk(spec, steps=steps)
    chunk.columns["priority"][spec.history] = MAX_PRIORITY
    data = encode_version_1(chunk) if codec == "version 1" else encode_chunk(chunk, spec, codec=cast(Codec, codec))
    decoded = decode_chunk(data, spec)
    assert (decoded.packed is not None) == (codec == "lz4")
    np.testing.assert_array_equal(decoded.frame, chunk.frame)
    assert decoded.frame.dtype == chunk.frame.dtype
    for name, expected in COLUMNS.items():
        np.testing.assert_array_equal(decoded.columns[name], chunk.columns[name])
        assert decoded.columns[name].dtype == np.dtype(expected)
    assert decoded.num_rows == chunk.num_rows
    assert decoded.num_transitions(spec) == chunk.num_transitions(spec) > 0


def test_decoding_copies_nothing() -> None:
    data = encode_chunk(make_chunk(), SPEC)
    decoded = decode_chunk(data, SPEC)
    assert not decoded.frame.flags.owndata
    assert not decoded.frame.flags.writeable


def test_spec_survives_json() -> None:
    assert ChunkSpec.from_json(json.loads(json.dumps(SPEC.to_json()))) == SPEC
    with pytest.raises(TypeError, match="colour"):
        ChunkSpec.from_json(SPEC.to_json() | {"colour": "red"})


CODECS: tuple[Codec, ...] = ("none", "lz4")


@pytest.mark.parametrize("codec", CODECS)
def test_every_truncation_is_refused(codec: Codec) -> None:
    data = encode_chunk(make_chunk(), SPEC, codec=codec)
    for length in range(len(data)):
        with pytest.raises(CorruptDataError):
            decode_chunk(data[:length], SPEC)
        with pytest.raises(CorruptDataError):  # also where the checksum is made to fit
            decode_chunk(with_checksum(data[:length][:-4]), SPEC)
    with pytest.raises(CorruptDataError, match="checksum"):
        decode_chunk(data + b"\0", SPEC)
    with pytest.raises(CorruptDataError, match="left over"):
        decode_chunk(with_checksum(data[:-4] + b"\0"), SPEC)


def test_every_truncation_of_version_1_is_refused() -> None:
    data = encode_version_1(make_chunk())
    for length in range(len(data)):
        with pytest.raises(CorruptDataError):
            decode_chunk(data[:length], SPEC)
    with pytest.raises(CorruptDataError, match="left over"):
        decode_chunk(data + b"\0", SPEC)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(data=st.binary(max_size=400))
def test_garbage_is_refused_and_never_crashes(data: bytes) -> None:
    valid = encode_chunk(make_chunk(), SPEC)
    for candidate in (data, valid[: PREFIX.size] + data, PREFIX.pack(b"UPCH", 1, 0, len(data)) + data):
        with pytest.raises(CorruptDataError):
            decode_chunk(candidate, SPEC)


@pytest.mark.parametrize("codec", CODECS)
def test_every_changed_byte_is_refused(codec: Codec) -> None:
    good = encode_chunk(make_chunk(), SPEC, codec=codec)
    for position in range(len(good)):
        data = bytearray(good)
        data[position] ^= 1 << position % 8
        with pytest.raises(CorruptDataError):
            decode_chunk(bytes(data), SPEC)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(codec=st.sampled_from(["none", "lz4", "version 1"]), position=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_a_byte_changed_under_its_checksum_changes_a_value_within_its_range_at_worst(
    codec: str, position: int, flip: int
) -> None:
    chunk = make_chunk()
    data = bytearray(
        encode_version_1(chunk) if codec == "version 1" else encode_chunk(chunk, SPEC, codec=cast(Codec, codec))
    )
    data[position % (len(data) - 4)] ^= flip
    try:
        decoded = decode_chunk(bytes(data) if codec == "version 1" else with_checksum(data[:-4]), SPEC)
    except CorruptDataError:
        return
    assert decoded.frame.shape == (SPEC.rows, *SPEC.frame_shape)
    assert 0 <= decoded.columns["action"].min() <= decoded.columns["action"].max() < SPEC.num_actions
    assert not np.isnan(decoded.columns["priority"]).any()


@pytest.mark.parametrize(
    "change",
    [
        {"codec": ["codec", "zstd"]},
        {"frame": ["frame", "|u1", [13, 2, 3]]},
        {"frame": ["frame", "|i1", [13, 3, 2]]},
        {"reward": ["reward", "<i4", [13]]},
        {"action": ["action", "<u4", [13]]},
        {"reward": ["gain", "<f4", [13]]},
        {"action": ["action", "|O", [13]]},
        {"action": ["action", "|V0", [13]]},
        {"action": ["action", "(1,", [13]]},
        {"action": ["action", "<i4", [-13]]},
        {"action": ["action", "<i4", [1] * 100]},
        {"action": ["action", "<i4", [float("inf")]]},
        {"frame": ["frame", "|u1", [2**40, 3, 2]]},
        {"action": ["action", "nonsense", [13]]},
        {"action": ["action", "<i4", "ab"]},
    ],
)
def test_a_header_that_claims_another_layout_is_refused(change: dict[str, list[object]]) -> None:
    with pytest.raises(CorruptDataError, match="header"):
        decode_chunk(replace_header(encode_chunk(make_chunk(), SPEC), change), SPEC)


def test_another_version_or_magic_is_refused() -> None:
    data = encode_chunk(make_chunk(), SPEC)
    size = PREFIX.unpack_from(data)[3]
    for magic, version in ((b"UPCH", 3), (b"UPCH", 0), (b"NOPE", 2)):
        with pytest.raises(CorruptDataError, match="this build reads"):
            decode_chunk(PREFIX.pack(magic, version, 0, size) + data[PREFIX.size :], SPEC)


@pytest.mark.parametrize(
    ("column", "value"),
    [("action", 5), ("action", -1), ("priority", -1.0), ("priority", np.nan), ("reward", np.inf), ("reward", np.nan)],
)
def test_values_out_of_range_are_refused_on_both_sides(column: str, value: float) -> None:
    chunk = make_chunk()
    good = encode_chunk(chunk, SPEC)
    assert chunk.columns[column][5] != value
    offset = good.rindex(chunk.columns[column].tobytes())
    chunk.columns[column][5] = value
    with pytest.raises(ValueError, match=column):
        encode_chunk(chunk, SPEC)
    forged = bytearray(good)
    forged[offset : offset + chunk.columns[column].nbytes] = chunk.columns[column].tobytes()
    with pytest.raises(CorruptDataError, match=column):
        decode_chunk(with_checksum(forged[:-4]), SPEC)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused_on_both_sides(value: float) -> None:
    spec = ChunkSpec(frame_shape=(3,), frame_dtype="float32", num_actions=2, steps=4, history=0, lookahead=1)
    columns = {name: np.zeros(5, dtype) for name, dtype in COLUMNS.items()}
    chunk = Chunk(np.full((5, 3), 0.125, np.float32), columns)
    good = encode_chunk(chunk, spec)
    offset = good.rindex(chunk.frame.tobytes())
    chunk.frame[3, 1] = value
    with pytest.raises(ValueError, match="frame is not finite"):
        encode_chunk(chunk, spec)
    forged = bytearray(good)
    forged[offset : offset + chunk.frame.nbytes] = chunk.frame.tobytes()
    with pytest.raises(CorruptDataError, match="frame is not finite"):
        decode_chunk(with_checksum(forged[:-4]), spec)


@pytest.mark.parametrize("rows", [0, 3, 14])
def test_too_few_or_too_many_rows_are_refused(rows: int) -> None:
    frame = np.zeros((rows, *SPEC.frame_shape), np.uint8)
    chunk = Chunk(frame, {name: np.zeros(rows, dtype) for name, dtype in COLUMNS.items()})
    with pytest.raises(ValueError, match="rows"):
        encode_chunk(chunk, SPEC)


def test_chunks_of_another_run_are_refused() -> None:
    data = encode_chunk(make_chunk(), SPEC)
    for field, value in (("frame_shape", (2, 3)), ("frame_dtype", "float32"), ("num_actions", 1), ("steps", 4)):
        other = ChunkSpec.from_json(SPEC.to_json() | {field: value})
        with pytest.raises(CorruptDataError):
            decode_chunk(data, other)
