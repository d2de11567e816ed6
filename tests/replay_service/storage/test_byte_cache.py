"""The cache against a plain list."""

from hypothesis import given, settings
from hypothesis import strategies as st

from replay_service.storage.byte_cache import ByteCache


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    limit=st.integers(0, 12),
    calls=st.lists(st.tuples(st.sampled_from(["get", "put", "discard"]), st.integers(0, 5), st.integers(0, 6))),
)
def test_it_keeps_what_was_used_last_and_fits(limit: int, calls: list[tuple[str, int, int]]) -> None:
    cache = ByteCache[int, str](limit, size=len)
    model = list[tuple[int, str]]()  # from the one used longest ago to the newest
    for call, key, size in calls:
        kept = dict(model).get(key)
        if call == "get":
            assert cache.get(key) == kept
            if kept is not None:
                model = [entry for entry in model if entry[0] != key] + [(key, kept)]
            continue
        model = [entry for entry in model if entry[0] != key]
        if call == "discard":
            cache.discard(key)
        else:
            cache.put(key, "x" * size)
            if size <= limit:
                model.append((key, "x" * size))
                while sum(len(value) for _, value in model) > limit:
                    model.pop(0)
        assert cache.num_bytes == sum(len(value) for _, value in model) <= limit
        assert len(cache) == len(model)
    assert [cache.get(key) for key, _ in list(model)] == [value for _, value in model]
