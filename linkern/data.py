r"""Tasks to learn: two classes of real images, synthetic teachers, and data whose kernel is the identity.

Every function returns a `Task` with float64 inputs, one per row, scaled so that C = X X^T / D has entries of order one.
The same seed gives the same task; training and test inputs are disjoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from linkern import checks
from linkern.image_files import read_cifar10, read_mnist
from linkern.preprocess import normalise, whiten

__all__ = [
    "Task",
    "cifar10",
    "digits",
    "ising_teacher",
    "linear_teacher",
    "mnist",
    "normalise",
    "whiten",
    "whitened",
]

Array = NDArray[np.float64]
Seed = int | np.random.Generator | np.random.SeedSequence | None

# Red, green, blue, by ITU-R BT.601.
_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True, eq=False)
class Task:
    """Inputs and labels.

    Attributes
    ----------
    X : (P, D) ndarray
    y : (P,) ndarray
    X_test : (P_test, D) ndarray
        P_test may be 0.
    y_test : (P_test,) ndarray
    name : str
    provenance : Mapping[str, Any]
        Where the data came from and what was done to it, ready for JSON.
    teacher : (D,) ndarray or None
        The direction that made the labels, for synthetic tasks.
    """

    X: Array
    y: Array
    X_test: Array
    y_test: Array
    name: str
    provenance: Mapping[str, Any]
    teacher: Array | None = None


def digits(
    *,
    classes: tuple[int, int] = (0, 1),
    samples: int,
    test: int = 0,
    center: bool = False,
    sphere: bool = True,
    rng: Seed = None,
) -> Task:
    """Two of the ten classes of scikit-learn's bundled 8 x 8 digits (D = 64, about 180 images per class).

    Parameters
    ----------
    classes : (int, int)
        Labels +1 and -1, in this order.
    samples, test : int
        Numbers of training and test images. Both sets are balanced (an odd one out belongs to class +1) and ordered,
        class +1 first. At the same seed, smaller training sets are contained in larger ones class by class, and the
        test set does not depend on `samples`.
    center, sphere : bool
        As in `normalise`.
    rng : int, Generator, SeedSequence or None
        Which images.

    Raises
    ------
    ImportError
        scikit-learn is not installed.
    ValueError
        Bad classes, or more images asked for than there are (the message has the numbers).
    """
    try:
        import sklearn
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits come with scikit-learn: pip install 'linkern[data]'") from error
    bunch = load_digits()
    pool = bunch.data / 16, bunch.target
    source = {"source": f"scikit-learn {sklearn.__version__} load_digits", "pixels": "0 ... 16 divided by 16"}
    chosen = _two_classes(pool, None, classes, samples, test, rng)
    return _image_task("digits", chosen, classes, center, sphere, {**source, "seed": _seed(rng)})


def mnist(
    folder: str | Path,
    *,
    classes: tuple[int, int] = (0, 1),
    samples: int,
    test: int = 0,
    size: Literal[28, 32] = 28,
    center: bool = False,
    sphere: bool = True,
    rng: Seed = None,
) -> Task:
    """Two classes of MNIST (or Fashion-MNIST, KMNIST) from local idx files, see `image_files.read_mnist`.

    Training images come from the training files and test images from the test files. `size` 32 pads with a frame of two
    zero pixels. The other parameters are as for `digits`; memory: 55 MB for the bytes of the whole data set.
    """
    frame = (_one_of("size", size, (28, 32)) - 28) // 2
    test_pool = read_mnist(folder, "test") if test else None
    X, X_test, y, y_test = _two_classes(read_mnist(folder, "train"), test_pool, classes, samples, test, rng)

    def pixels(x: NDArray[np.uint8]) -> Array:
        return np.pad(x / 255, ((0, 0), (frame, frame), (frame, frame))).reshape(len(x), size * size)

    source = {"source": "MNIST idx files", "pixels": "0 ... 255 divided by 255", "size": size, "seed": _seed(rng)}
    return _image_task("mnist", (pixels(X), pixels(X_test), y, y_test), classes, center, sphere, source)


def cifar10(
    folder: str | Path,
    *,
    classes: tuple[int, int] = (0, 1),
    samples: int,
    test: int = 0,
    size: Literal[28, 32] = 32,
    grey: bool = True,
    center: bool = False,
    sphere: bool = True,
    rng: Seed = None,
) -> Task:
    """Two classes of CIFAR-10 from local files of the binary version, see `image_files.read_cifar10`.

    `grey` takes the luma 0.299 R + 0.587 G + 0.114 B (D = size^2); otherwise D = 3 size^2, channel by channel as in the
    files. `size` 28 keeps the central 28 x 28 pixels. The other parameters are as for `mnist`; memory: 370 MB for the
    bytes of the whole data set.
    """
    crop = (32 - _one_of("size", size, (28, 32))) // 2
    test_pool = read_cifar10(folder, "test") if test else None
    X, X_test, y, y_test = _two_classes(read_cifar10(folder, "train"), test_pool, classes, samples, test, rng)

    def pixels(x: NDArray[np.uint8]) -> Array:
        colours = x[:, :, crop : 32 - crop, crop : 32 - crop] / 255
        kept = np.tensordot(colours, _LUMA, axes=(1, 0)) if grey else colours
        return kept.reshape(len(x), size * size * (1 if grey else 3))

    source = {"source": "CIFAR-10 binary files", "pixels": "0 ... 255 divided by 255", "size": size, "grey": grey}
    chosen = pixels(X), pixels(X_test), y, y_test
    return _image_task("cifar10", chosen, classes, center, sphere, {**source, "seed": _seed(rng)})


def linear_teacher(samples: int, dimension: int, *, test: int = 0, noise: float = 0.0, rng: Seed = None) -> Task:
    """Gaussian inputs x ~ N(0, I_D) and labels y = w . x + noise xi with |w| = 1; test labels carry no noise.

    Parameters
    ----------
    samples, dimension, test : int
        P, D and the number of test inputs.
    noise : float
        Standard deviation of the label noise, in units of the standard deviation of w . x.
    rng : int, Generator, SeedSequence or None
    """
    shape = _shape(samples, dimension, test)
    noise = checks.nonnegative("noise", noise)
    teacher_rng, input_rng, noise_rng = checks.random_generator(rng).spawn(3)
    w = _unit_vector(teacher_rng, dimension)
    inputs = input_rng.standard_normal(shape)
    y = inputs @ w
    y[:samples] += noise * noise_rng.standard_normal(samples)
    record = {"source": "linear teacher", "inputs": "N(0, 1)", "noise": noise, "seed": _seed(rng)}
    return Task(inputs[:samples], y[:samples], inputs[samples:], y[samples:], "linear teacher", record, w)


def ising_teacher(samples: int, dimension: int, *, test: int = 0, rng: Seed = None) -> Task:
    """Distinct spin configurations x in {-1, +1}^D and labels y = sign(w . x), linearly separable by construction.

    w is a random unit vector; the classes are balanced on average, not exactly. C has a unit diagonal. Needs
    samples + test <= 2^D.
    """
    shape = _shape(samples, dimension, test)
    # Distinct codes for the leading spins make the configurations distinct; 62 bits fit into an int64.
    coded = min(dimension, 62)
    if shape[0] > 2**coded:
        raise ValueError(f"samples, test: expected at most 2^{dimension} distinct inputs in all, got {shape[0]}")
    teacher_rng, code_rng, spin_rng = checks.random_generator(rng).spawn(3)
    w = _unit_vector(teacher_rng, dimension)
    codes = code_rng.choice(2**coded, size=shape[0], replace=False)
    leading = (codes[:, None] >> np.arange(coded)) & 1
    bits = np.concatenate([leading, spin_rng.integers(0, 2, size=(shape[0], dimension - coded))], axis=1)
    inputs = 2.0 * bits - 1.0
    y = np.where(inputs @ w >= 0, 1.0, -1.0)
    record = {"source": "Ising teacher", "inputs": "-1, +1, distinct", "seed": _seed(rng)}
    return Task(inputs[:samples], y[:samples], inputs[samples:], y[samples:], "Ising teacher", record, w)


def whitened(samples: int, dimension: int | None = None, *, rng: Seed = None) -> Task:
    """Inputs with C = X X^T / D = I and labels (+1, ..., +1, -1, ..., -1) / sqrt(P), so that |y| = 1.

    Without `rng`, X is sqrt(D) times the leading rows of the identity; with it, of a random rotation. `dimension` is P
    unless given, and at least P. There are no test inputs. C = I up to one rounding of sqrt(D).
    """
    samples = checks.integer_at_least("samples", samples)
    dimension = samples if dimension is None else checks.integer_at_least("dimension", dimension, samples)
    rows = np.eye(samples, dimension)
    if rng is not None:
        # The rows of a Gaussian matrix, orthonormalised, are uniformly distributed frames.
        rows = linalg.qr(checks.random_generator(rng).standard_normal((dimension, samples)), mode="economic")[0].T
    y = np.where(np.arange(samples) < (samples + 1) // 2, 1.0, -1.0) / np.sqrt(samples)
    record = {"source": "whitened", "rotated": rng is not None, "seed": _seed(rng)}
    return Task(np.sqrt(dimension) * rows, y, np.empty((0, dimension)), np.empty(0), "whitened", record)


def _two_classes(
    train_pool: tuple[NDArray[Any], NDArray[Any]],
    test_pool: tuple[NDArray[Any], NDArray[Any]] | None,
    classes: tuple[int, int],
    samples: int,
    test: int,
    rng: Seed,
) -> tuple[NDArray[Any], NDArray[Any], Array, Array]:
    """Return (images, test images, y, y_test), balanced, +1 first; without `test_pool` both come from `train_pool`."""
    samples, test = checks.integer_at_least("samples", samples), checks.integer_at_least("test", test, 0)
    known = np.unique(train_pool[1]).tolist()
    if np.shape(classes) != (2,) or classes[0] == classes[1] or not set(classes) <= set(known):
        raise ValueError(f"classes: expected two different ones of {known}, got {classes!r}")
    train_rows, test_rows = [], []
    for i, child in enumerate(checks.random_generator(rng).spawn(2)):
        wanted, wanted_test = (samples + 1 - i) // 2, (test + 1 - i) // 2
        rows = child.permutation(np.flatnonzero(train_pool[1] == classes[i]))
        other = rows[::-1] if test_pool is None else child.permutation(np.flatnonzero(test_pool[1] == classes[i]))
        available = len(rows) - (wanted_test if test_pool is None else 0)
        for name, count, limit in (("test", wanted_test, len(other)), ("samples", wanted, available)):
            if count > limit:
                raise ValueError(f"{name}: expected at most {max(limit, 0)} images of class {classes[i]}, asked for {count}")
        train_rows.append(rows[:wanted])
        test_rows.append(other[:wanted_test])
    labels = [np.repeat([1.0, -1.0], [len(rows) for rows in part]) for part in (train_rows, test_rows)]
    images = train_pool[0][np.concatenate(train_rows)]
    test_images = (train_pool if test_pool is None else test_pool)[0][np.concatenate(test_rows)]
    return images, test_images, labels[0], labels[1]


def _image_task(
    name: str,
    chosen: tuple[Array, Array, Array, Array],
    classes: tuple[int, int],
    center: bool,
    sphere: bool,
    source: dict[str, Any],
) -> Task:
    X, X_test, y, y_test = chosen
    X, X_test = normalise(X, X_test, center=center, sphere=sphere)
    counts = {part: [int((v > 0).sum()), int((v < 0).sum())] for part, v in (("train", y), ("test", y_test))}
    record = {**source, "classes": [int(k) for k in classes], "counts": counts, "center": center, "sphere": sphere}
    return Task(X, y, X_test, y_test, name, record)


def _shape(samples: int, dimension: int, test: int) -> tuple[int, int]:
    total = checks.integer_at_least("samples", samples) + checks.integer_at_least("test", test, 0)
    return total, checks.integer_at_least("dimension", dimension)


def _unit_vector(rng: np.random.Generator, dimension: int) -> Array:
    w = rng.standard_normal(dimension)
    return w / np.linalg.norm(w)


def _one_of(name: str, value: int, allowed: tuple[int, ...]) -> int:
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {allowed}, got {value!r}")
    return value


def _seed(rng: Seed) -> int | None:
    """The seed when there is one to write down; a Generator has none."""
    return int(rng) if isinstance(rng, (int, np.integer)) else None
