"""Long studies that may be killed: each result is a file of its own, and what is there is not made again."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latentrl.checks import LatentRLError
from latentrl.files import whole

Record = dict[str, Any]


class Cells:
    """The results of a study, one JSON file per cell; call it to get one, made or read.

    A study that was killed goes on where it was: each file is written whole or not at all.

    :param folder: where the files are kept, below ``cells``
    :param settings: what all results depend on
    :raises LatentRLError: the folder cannot be written, or holds results of other settings
    """

    def __init__(self, folder: str | Path, settings: Record) -> None:
        self.folder = Path(folder)
        settings = json.loads(json.dumps(settings))
        path = self.folder / "settings.json"
        try:
            (self.folder / "cells").mkdir(parents=True, exist_ok=True)
            if not path.exists():
                with whole(path) as partial:
                    partial.write_text(json.dumps(settings, indent=1) + "\n")
        except OSError as error:
            raise LatentRLError(
                f"output folder {str(folder)!r} cannot be written ({error.strerror}): give another"
            ) from error
        before = json.loads(path.read_text())
        if other := [name for name in {**settings, **before} if settings.get(name) != before.get(name)]:
            raise LatentRLError(
                f"{str(folder)!r} holds results of another study ({', '.join(sorted(other))} differ): give another "
                "folder, or the settings in its settings.json to go on with it"
            )

    def _path(self, key: str) -> Path:
        # Readable, and different for keys that only differ in what a file name cannot hold.
        digest = hashlib.sha256(key.encode()).hexdigest()[:8]
        return self.folder / "cells" / f"{re.sub(r'[^A-Za-z0-9.=+-]+', '_', key)}-{digest}.json"

    def __contains__(self, key: str) -> bool:
        return self._path(key).exists()

    def __call__(self, key: str, work: Callable[[], Record]) -> Record:
        """What is known of a cell, or else what ``work`` returns, which is then kept."""
        path = self._path(key)
        if not path.exists():
            record = work()
            with whole(path) as partial:
                partial.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
        return json.loads(path.read_text())
