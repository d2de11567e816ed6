"""Writers that run beside one another; some as processes of their own, so that they import little."""

from contextlib import suppress
from pathlib import Path

from teacher_store.store.garbage import collect_garbage
from teacher_store.store.store import TeacherStore
from tests.helpers.stored import make_log, make_weights, publish
from upcycle.errors import UserError


def publish_into_folder(folder: Path, writer: int) -> list[str]:
    """Publishes teachers of its own and one that every writer publishes, changes one that is there, clears up."""
    store = TeacherStore(folder / "store", bundled=None)
    mine = folder / str(writer)
    mine.mkdir()
    done = [publish(store, make_weights(mine, seed), name=f"writer-{writer}").id for seed in range(3)]
    with suppress(UserError):  # all but one of the writers
        done.append(publish(store, make_weights(mine, 100), name="all", log=folder / "log").id)
    store.add_experience("shared", make_log(mine / "log", chunks=1 + writer))
    record = store.get("shared")
    store.replace(record.model_copy(update={"differences": (*record.differences, str(writer))}))
    collect_garbage(store, keep_seconds=3600)
    return done


def publish_into_bucket(url: str, folder: Path, writer: int) -> list[str]:
    """Publishes one of its own and one that every writer publishes; each writer changes another field of a third."""
    store, mine = TeacherStore(url, bundled=None), folder / str(writer)
    mine.mkdir()
    done = [publish(store, make_weights(mine, writer), name=f"writer-{writer}").id]
    with suppress(UserError):  # all but one of the writers
        done.append(publish(store, make_weights(mine, 100), name="all", log=folder / "log").id)
    changes = ({"licence": "MIT"}, {"random_score": -20.0}, {"differences": ("sound",)})
    store.replace(store.get("shared").model_copy(update=changes[writer]))
    return done
