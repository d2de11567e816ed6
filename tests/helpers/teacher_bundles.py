"""Bundles as no store would write them."""

import hashlib
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from teacher_store.store.bundle import SUMS


def rewrite(
    source: Path,
    target: Path,
    changes: Mapping[str, Callable[[bytes], bytes] | None],
    *,
    extra: Mapping[str, bytes] | None = None,
    mode: Mapping[str, int] | None = None,
    compressed: bool = False,
    mend_sums: bool = False,
) -> None:
    """Copies a bundle with other contents (None: without the file), with the CRC-32 of its files as they are then.

    Args:
      source: the bundle.
      target: the copy.
      changes: of contents, by name.
      extra: files to add.
      mode: other kinds of files, by name.
      compressed: deflate what was changed.
      mend_sums: correct SHA256SUMS as well.
    """
    with zipfile.ZipFile(source) as old:
        files = {entry.filename: (entry, old.read(entry)) for entry in old.infolist()}
    with zipfile.ZipFile(target, "w") as new:
        sums = list[str]()
        for name, (entry, data) in files.items():
            change = changes.get(name, bytes)
            if change is None:
                continue
            data = change(data)
            if name == SUMS and mend_sums and name not in changes:
                data = "".join(sums).encode()
            sums.append(f"{hashlib.sha256(data).hexdigest()}  {name}\n")
            if mode is not None and name in mode:
                entry.external_attr = mode[name] << 16
            kind = zipfile.ZIP_DEFLATED if compressed and name in changes else zipfile.ZIP_STORED
            new.writestr(entry, data, kind)
        for name, data in (extra or {}).items():
            new.writestr(name, data)
