"""Reads a file again and again, each time with another byte changed: ``python -m tests.data.flips hdf5 FOLDER``.

In a process of its own, as what hangs or crashes in a library of C takes its process with it.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from latentrl import Demonstrations, LatentRLError
from tests.data.strategies import same, sound

FLIPS = 100


def main(kind: str, folder: Path) -> None:
    for check in (False, True):
        made = hdf5 if kind == "hdf5" else parquet
        flip(folder, *made(folder, check), exact=check and kind == "hdf5")


def flip(folder: Path, file: Path, read: Callable[[], Demonstrations], exact: bool) -> None:
    """:param folder: that errors name; also of the next file, where a changed one has an episode of its number
    :param exact: checksums lie over all of the file
    """
    good, content, refused = read(), file.read_bytes(), list[str]()
    generator = np.random.default_rng(0)
    for where in np.linspace(0, len(content) - 1, FLIPS).astype(int):
        by = int(generator.integers(1, 256))
        file.write_bytes(content[:where] + bytes([content[where] ^ by]) + content[where + 1 :])
        try:
            made = read()
        except LatentRLError as error:
            refused.append(str(error))
            continue
        sound(made)
        if exact:
            same(made.observations, good.observations)
            same(made.actions, good.actions)
    assert all(str(folder) in said for said in refused)
    print(file.name, f"{len(refused)} of {FLIPS} refused")
    file.write_bytes(content)


def hdf5(folder: Path, check: bool) -> tuple[Path, Callable[[], Demonstrations]]:
    """As robomimic writes it, or with all checksums that there are."""
    import h5py

    from tests.data.test_hdf5 import contents

    path = folder / "lift.hdf5"
    with h5py.File(path, "w", libver="latest" if check else None) as file:
        for demo, arrays in contents().items():
            for name, array in arrays.items():
                file.create_dataset(f"data/{demo}/{name}", data=array, chunks=array.shape, fletcher32=check)
    return path, lambda: Demonstrations.from_hdf5(path, ["robot0_eef_pos", "agentview_image"])


def parquet(folder: Path, check: bool) -> tuple[Path, Callable[[], Demonstrations]]:
    """As the package datasets writes it, or with checksums of pages."""
    import pyarrow.parquet as pq

    from tests.data.test_lerobot import contents, write

    file = write(folder, contents()) / "data" / "chunk-000" / "file-000.parquet"
    pq.write_table(pq.read_table(file), file, write_page_checksum=check)
    return file, lambda: Demonstrations.from_lerobot(folder)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
