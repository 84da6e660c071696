"""NumPy archives, read without ever opening a pickle."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrl.checks import LatentRLError


def load_npz(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an archive by name.

    :raises LatentRLError: where there is no such file, it is damaged, or it holds pickled objects
    """
    if not path.is_file():
        raise LatentRLError(f"there is no file {str(path)!r}: give the path of an .npz archive")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # numpy raises many kinds for damaged or foreign files
        raise LatentRLError(f"{str(path)!r} cannot be read as an .npz archive of plain arrays ({error})") from error
