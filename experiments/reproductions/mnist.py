"""MNIST and its static binarisation, from files as they are spread, or fetched by scikit-learn."""

import gzip
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentrl.checks import LatentRLError, require

STATIC = "static_binarized_packed.npz"
HELD_OUT = 10_000
"""Training images, the last ones, that choose what is not learned."""


class Digits(NamedTuple):
    """Pixels in [0, 1], (N, 784) float32, and labels (N,)."""

    train: Tensor
    train_labels: NDArray[np.int64]
    test: Tensor
    test_labels: NDArray[np.int64]


class Bits(NamedTuple):
    """Zeros and ones, (N, 784) float32."""

    train: Tensor
    valid: Tensor
    test: Tensor


def digits(folder: Path | None) -> Digits:
    """The 60 000 and 10 000 images.

    :param folder: with the idx files, zipped or not; None fetches them from openml.org
    :raises LatentRLError: a file is missing or damaged; nothing can be fetched
    """
    if folder is None:
        images, labels = _fetched()
        parts: list[NDArray[np.uint8]] = [images[:60_000], labels[:60_000], images[60_000:], labels[60_000:]]
    else:
        names = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
        parts = [_idx(folder, name) for name in names]
    train, test = (torch.from_numpy(part.reshape(len(part), 784)).float() / 255.0 for part in (parts[0], parts[2]))
    return Digits(train, parts[1].astype(np.int64), test, parts[3].astype(np.int64))


def static_bits(folder: Path | None) -> Bits:
    """Images binarised once: each pixel is 1 with a probability of its intensity. 50 000, 10 000 and 10 000.

    :param folder: with ``static_binarized_packed.npz`` (bits packed by ``numpy.packbits`` under "train", "valid" and
        "test", whose rows come in another order here); without that file, or without a folder, :func:`digits` are
        binarised by a fixed seed, which gives other bits of the same law
    :raises LatentRLError: as :func:`digits`; a damaged file
    """
    path = None if folder is None else folder / STATIC
    if path is None or not path.exists():
        images = digits(folder)
        drawn = binarised(torch.cat([images.train, images.test]))
        return Bits(*drawn.split([len(images.train) - HELD_OUT, HELD_OUT, len(images.test)]))
    try:
        with np.load(path, allow_pickle=False) as file:
            # The file's columns lie one after another; minibatches gather rows.
            packed = {name: np.ascontiguousarray(file[name]) for name in Bits._fields}
            bits = Bits(*(torch.from_numpy(np.unpackbits(packed[n], axis=1)[:, :784]).float() for n in Bits._fields))
        # They come digit by digit, and the first thousand would be zeros.
        order = torch.randperm(len(bits.test), generator=torch.Generator().manual_seed(0))
        return bits._replace(test=bits.test[order])
    except (OSError, KeyError, ValueError) as error:
        raise LatentRLError(f"{path} holds no packed bits ({error}): give another copy of it, or remove it") from error


def shown(bits: Tensor, task: str) -> tuple[Tensor, Tensor]:
    """What is given and what is to be explained: to a "VAE" all, to an "SBN" the upper half and the lower one."""
    return (bits[:, :392], bits[:, 392:]) if task == "SBN" else (bits, bits)


def fingerprint(data: Tensor) -> str:
    """Tells data from others, such as bits of a file from bits that were drawn."""
    return f"{zlib.crc32(data.cpu().numpy().tobytes()):08x}"


def binarised(pixels: Tensor) -> Tensor:
    """Each pixel is 1 with a probability of its intensity; the same each time."""
    return (torch.rand(pixels.shape, generator=torch.Generator().manual_seed(0)) < pixels).float()


def _idx(folder: Path, name: str) -> NDArray[np.uint8]:
    path = next((p for p in (folder / f"{name}.gz", folder / name) if p.exists()), None)
    if path is None:
        raise LatentRLError(
            f"{str(folder)!r} has no {name} or {name}.gz: give the folder with MNIST's four idx files, or leave "
            "--data-dir out to fetch them from openml.org"
        )
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zeros, kind, dimensions = struct.unpack(">HBB", data[:4])
        shape = struct.unpack(f">{dimensions}I", data[4 : 4 + 4 * dimensions])
        if (zeros, kind) != (0, 8):
            raise ValueError("no bytes in idx format")
        return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape).copy()
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise LatentRLError(f"{str(path)!r} is damaged ({error}): download it again") from error


def _fetched() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    datasets = require("sklearn.datasets", "judge")
    try:
        images, labels = datasets.fetch_openml("mnist_784", version=1, return_X_y=True, as_frame=False)
    except OSError as error:
        raise LatentRLError(
            f"MNIST could not be fetched from openml.org ({error}): give the folder with its idx files by --data-dir"
        ) from error
    return images.astype(np.uint8), labels.astype(np.uint8)
