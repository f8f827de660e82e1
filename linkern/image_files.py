"""Readers for the standard binary files of MNIST (idx) and CIFAR-10 (binary version): bytes in, uint8 arrays out.

Nothing is downloaded and nothing is unpickled; every error says which file was expected where.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["read_cifar10", "read_mnist"]

Bytes = NDArray[np.uint8]
Part = Literal["train", "test"]

_MNIST = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_CIFAR10 = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}
_CIFAR10_FOLDER = "cifar-10-batches-bin"
_CIFAR10_RECORD = 1 + 3 * 32 * 32


def read_mnist(folder: str | Path, part: Part) -> tuple[Bytes, Bytes]:
    """Return images (n, 28, 28) and labels (n,) of `part` "train" or "test".

    Files: `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-...`, raw or with `.gz`, in `folder` itself or in
    `folder/MNIST/raw`. Any data set in the same format (Fashion-MNIST, KMNIST) reads alike.

    Raises
    ------
    FileNotFoundError
        A file is missing; the message lists the names and folders tried.
    ValueError
        A file is not what its name says; the message has the expected and the found header or size.
    """
    folder = Path(folder)
    images, labels = (
        _read_idx(_found(folder, ("", "MNIST/raw"), (name, f"{name}.gz")), axes)
        for name, axes in zip(_MNIST[part], (3, 1), strict=True)
    )
    if len(images) != len(labels):
        raise ValueError(f"folder: expected as many labels as images in {folder}, got {len(labels)} and {len(images)}")
    return images, labels


def read_cifar10(folder: str | Path, part: Part) -> tuple[Bytes, Bytes]:
    """Return images (n, 3, 32, 32), channels red, green, blue, and labels (n,) of `part` "train" or "test".

    Files: `data_batch_1.bin` ... `data_batch_5.bin`, `test_batch.bin`, in `folder` itself or in
    `folder/cifar-10-batches-bin`. Raises as `read_mnist` does; the Python version of the data set, which is pickled, is
    recognised and refused.
    """
    folder = Path(folder)
    records = [_read_cifar_batch(_cifar_file(folder, name)) for name in _CIFAR10[part]]
    stacked = np.concatenate(records)
    return stacked[:, 1:].reshape(-1, 3, 32, 32), stacked[:, 0]


def _found(folder: Path, subfolders: tuple[str, ...], names: tuple[str, ...]) -> Path:
    candidates = [folder / subfolder / name for subfolder in subfolders for name in names]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    tried = ", ".join(str(candidate) for candidate in candidates)
    raise FileNotFoundError(f"folder: expected the file {names[0]} in {folder}, found none of: {tried}")


def _cifar_file(folder: Path, name: str) -> Path:
    try:
        return _found(folder, ("", _CIFAR10_FOLDER), (name,))
    except FileNotFoundError as missing:
        pickled = [folder / name.removesuffix(".bin"), folder / "cifar-10-batches-py" / name.removesuffix(".bin")]
        for path in pickled:
            if path.is_file():
                raise FileNotFoundError(
                    f"{missing}; {path} belongs to the Python version, which is pickled and is not read here: "
                    "unpack the binary version (cifar-10-binary.tar.gz)"
                ) from None
        raise


def _read_idx(path: Path, axes: int) -> Bytes:
    """Parse one idx file of unsigned bytes: magic 0x08 and the number of axes, big-endian lengths, then the entries."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: expected a gzip file, got a damaged one ({error})") from None
    header = bytes([0, 0, 8, axes])
    if content[:4] != header:
        raise ValueError(f"{path}: expected an idx header {header.hex()}, got {content[:4].hex() or 'an empty file'}")
    start = 4 + 4 * axes
    shape = tuple(int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4))
    if len(content) - start != math.prod(shape):
        raise ValueError(f"{path}: expected {start} bytes of header and entries of shape {shape}, got {len(content)} bytes")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def _read_cifar_batch(path: Path) -> Bytes:
    content = np.fromfile(path, dtype=np.uint8)
    if content.size == 0 or content.size % _CIFAR10_RECORD:
        raise ValueError(f"{path}: expected records of {_CIFAR10_RECORD} bytes, got {content.size} bytes")
    records = content.reshape(-1, _CIFAR10_RECORD)
    if (records[:, 0] > 9).any():
        raise ValueError(f"{path}: expected labels 0 ... 9, got {records[:, 0].max()}")
    return records
