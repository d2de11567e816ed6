"""Where a teacher store is: the user's own, the one that is named, a folder or a URL."""

import os
from pathlib import Path
from typing import Final

import platformdirs

from teacher_store.store.local_storage import LocalStorage
from teacher_store.store.storage import ObjectStorage
from upcycle.errors import UserError
from upcycle.url_secrets import secret_in

VARIABLE: Final = "UPCYCLE_TEACHERS"


def default_location() -> Path | str:
    """What the environment variable UPCYCLE_TEACHERS names, or a folder in the user's data."""
    return os.environ.get(VARIABLE) or platformdirs.user_data_path("upcycle") / "teachers"


def open_storage(location: Path | str) -> ObjectStorage:
    """The storage of a folder or of a URL. Raises: UserError if the URL holds a secret, or cannot be used.

    Runs write the location of their teacher's store down.
    """
    if isinstance(location, Path) or "://" not in location:
        return LocalStorage(Path(location))
    if (found := secret_in(location)) is not None:
        remedy = "leave it out; fsspec takes credentials from its configuration, S3 from AWS_PROFILE or ~/.aws"
        raise UserError(VARIABLE, location, f"holds {found}, which runs would write down", remedy)
    from teacher_store.store.remote_storage import RemoteStorage  # with fsspec, which a folder does not need

    return RemoteStorage(location)
