"""Long studies that may be killed: each result is a file of its own, and what is there is not made again."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latentrl.checks import LatentRLError
from latentrl.files import locked, output_folder, read_settings, whole

Record = dict[str, Any]
MOST_LETTERS = 200
"""Of a key in a file's name: file systems have no names beyond 255 bytes."""


class Cells:
    """The results of a study, one JSON file per cell; call it to get one, made or read.

    A study that was killed goes on where it was: each file is written whole or not at all.

    :param folder: where the files are kept, below ``cells``
    :param settings: what all results depend on
    :raises LatentRLError: the folder cannot be written, or holds results of other settings
    """

    def __init__(self, folder: str | Path, settings: Record) -> None:
        self.folder: Path = Path(folder).expanduser()
        settings = json.loads(json.dumps(settings))
        path = self.folder / "settings.json"
        output_folder(self.folder / "cells", overwrite=True)
        if not path.exists():
            with locked(self.folder, wait=10.0):  # two studies that begin at once are not to share a folder
                if not path.exists():
                    with whole(path) as partial:
                        partial.write_text(json.dumps(settings, indent=1) + "\n")
        before = read_settings(path)
        if other := [name for name in {**settings, **before} if settings.get(name) != before.get(name)]:
            raise LatentRLError(
                f"{str(folder)!r} holds results of another study ({', '.join(sorted(other))} differ): give another "
                "folder, or the settings in its settings.json to go on with it"
            )

    def _path(self, key: str) -> Path:
        # Readable, and different for keys that only differ in what a file name cannot hold.
        digest = hashlib.sha256(key.encode()).hexdigest()[:8]
        return self.folder / "cells" / f"{re.sub(r'[^A-Za-z0-9.=+-]+', '_', key)[:MOST_LETTERS]}-{digest}.json"

    def __contains__(self, key: str) -> bool:
        return self._path(key).exists()

    def __call__(self, key: str, work: Callable[[], Record]) -> Record:
        """What is known of a cell, or else what ``work`` returns, which is then kept."""
        if key not in self:
            self.keep(key, work())
        return self.read(key)

    def keep(self, key: str, record: Record) -> None:
        """Write a cell.

        :raises ValueError: a record that JSON cannot hold, such as one with infinity
        """
        with whole(self._path(key)) as partial:
            partial.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")

    def forget(self, key: str) -> None:
        """Make a cell anew when it is next asked for."""
        self._path(key).unlink(missing_ok=True)

    def read(self, key: str) -> Record:
        """What is known of a cell.

        :raises LatentRLError: nothing is known, or its file is damaged
        """
        path = self._path(key)
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise LatentRLError(f"{str(path)!r} is missing or damaged: remove it to make it again") from error
