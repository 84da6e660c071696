"""NumPy archives, and folders of NumPy files, without ever opening a pickle; large arrays stay in them."""

import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from latentrl.checks import LatentRLError
from latentrl.data.mapped import BLOCK, blocks, release, room, too_large
from latentrl.data.reading import reading
from latentrl.files import whole

HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def load_npz(path: Path, wanted: Callable[[list[str]], Iterable[str]] = lambda names: names) -> dict[str, NDArray[Any]]:
    """All arrays by name: of an archive, or of a folder of .npy files, in which a/b.npy is "a/b".

    An array that is too large for memory is mapped, read-only: its pages are read when they are asked for. Its checksum
    is not looked at. One that is compressed goes to a temporary file first (:func:`~latentrl.data.mapped.room`).

    :param wanted: of all names, those whose arrays are looked at
    :raises LatentRLError: where there is no such file, it is damaged, or it holds pickled objects
    """
    if path.is_dir():
        files = {file.relative_to(path).with_suffix("").as_posix(): file for file in sorted(path.rglob("[!.]*.npy"))}
        with reading(path, "a folder of .npy files"):
            return {name: _load_npy(files[name]) for name in wanted(list(files))}
    if not path.is_file():
        raise LatentRLError(f"there is no file {str(path)!r}: give the path of an .npz archive")
    with reading(path, "an .npz archive of plain arrays"), path.open("rb") as file, zipfile.ZipFile(file) as archive:
        members = {info.filename: info for info in archive.infolist() if info.filename.endswith(".npy")}
        named = {filename.removesuffix(".npy"): info for filename, info in members.items()}
        return {name: _member(path, archive, file, named[name]) for name in wanted(list(named))}


def _load_npy(path: Path) -> NDArray[Any]:
    with reading(path, "a plain .npy array"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        return array if too_large(array.nbytes) else np.array(array)


def _member(path: Path, archive: zipfile.ZipFile, file: IO[bytes], info: zipfile.ZipInfo) -> NDArray[Any]:
    with reading(info.filename, "a plain array"), archive.open(info) as member:
        if not too_large(info.file_size):
            array = npy.read_array(member, allow_pickle=False)
            if member.read(1):
                raise LatentRLError(f"it is longer than its shape {array.shape} says")
            return array
        shape, fortran, dtype = HEADERS[npy.read_magic(member)](member)
        header = member.tell()
        if dtype.hasobject:
            raise LatentRLError("it holds pickled objects, which are never opened")
        if info.file_size != header + int(np.prod(shape)) * dtype.itemsize:
            raise LatentRLError(f"it has another size than its shape {shape} says")
        if info.compress_type != zipfile.ZIP_STORED:
            # What is in Fortran's order is, turned over, in the usual one.
            return _filled(member, shape[::-1], dtype).T if fortran else _filled(member, shape, dtype)
    # Before the array stand the zip's own header of 30 bytes, which tells how long a name and what else follow it.
    file.seek(info.header_offset + 26)
    name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
    first = info.header_offset + 30 + name + extra + header
    return np.memmap(path, dtype, "r", first, shape, "F" if fortran else "C")


def _filled(member: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array with the bytes that follow, a few megabytes at a time."""
    array = room(shape, dtype)
    values = array.reshape(-1).view(np.uint8)
    for first in range(0, len(values), BLOCK):
        part = values[first : first + BLOCK]
        if member.readinto(part) != len(part):  # type: ignore[attr-defined]
            raise LatentRLError("it ends before its shape says")
        release(array)
    return array


def save_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """An archive that :func:`load_npz` reads and can map; whole or not at all, mapped arrays bit by bit."""
    with whole(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                header = {"descr": npy.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
                npy.write_array_header_1_0(member, header)
                for _, rows in blocks(array):
                    for part in _bites(rows):
                        member.write(part.tobytes())


def _bites(array: NDArray[Any]) -> list[NDArray[Any]]:
    """An array in memory in parts of a few megabytes, as they are copied to be written."""
    return [array] if array.ndim == 0 else np.array_split(array, max(1, min(len(array), array.nbytes // BLOCK)))
