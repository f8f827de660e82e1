"""Tasks: what they promise (disjoint, balanced, seeded, scaled), and the file formats, from tiny files made here."""

import gzip
import json
import subprocess
import sys

import numpy as np
import pytest
from scipy import linalg

from linkern import data, image_files


def rows(X):
    return {row.tobytes() for row in X}


# ---- digits


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("sklearn")
    return data.digits(samples=61, test=40, rng=5)


def test_digits_are_balanced_disjoint_and_on_the_sphere(digits):
    assert digits.X.shape == (61, 64)
    assert digits.X_test.shape == (40, 64)
    np.testing.assert_array_equal(digits.y, [1.0] * 31 + [-1.0] * 30)
    np.testing.assert_array_equal(digits.y_test, [1.0] * 20 + [-1.0] * 20)
    assert len(rows(digits.X) | rows(digits.X_test)) == 101
    for X in (digits.X, digits.X_test):
        np.testing.assert_allclose((X * X).sum(1) / 64, 1.0, rtol=1e-14)
    json.dumps(digits.provenance)
    assert digits.provenance["counts"] == {"train": [31, 30], "test": [20, 20]}
    assert digits.provenance["seed"] == 5


def test_digits_are_the_images_of_their_class():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    task = data.digits(classes=(7, 3), samples=30, test=9, sphere=False, rng=1)
    for X, y in ((task.X, task.y), (task.X_test, task.y_test)):
        for x, label in zip(X, y, strict=True):
            match = np.flatnonzero((bunch.data == 16 * x).all(axis=1))
            assert match.size == 1
            assert bunch.target[match[0]] == (7 if label > 0 else 3)


def test_digits_by_seed(digits):
    again = data.digits(samples=61, test=40, rng=np.random.default_rng(5))
    np.testing.assert_array_equal(again.X, digits.X)
    np.testing.assert_array_equal(again.X_test, digits.X_test)
    assert again.provenance["seed"] is None
    smaller = data.digits(samples=20, test=40, rng=5)
    assert rows(smaller.X) < rows(digits.X)
    np.testing.assert_array_equal(smaller.X_test, digits.X_test)
    assert rows(data.digits(samples=61, test=40, rng=6).X) != rows(digits.X)


def test_centred_digits():
    task = data.digits(samples=30, test=10, center=True, sphere=False, rng=0)
    np.testing.assert_allclose(task.X.mean(axis=0), 0, atol=1e-15)
    plain = data.digits(samples=30, test=10, sphere=False, rng=0)
    np.testing.assert_allclose(task.X_test, plain.X_test - plain.X.mean(axis=0), atol=1e-15)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 400}, "samples: expected at most 178 images of class 0, asked for 200"),
        ({"samples": 300, "test": 100}, "samples: expected at most 128 images of class 0, asked for 150"),
        ({"test": 400}, "test: expected at most 178 images of class 0, asked for 200"),
        ({"classes": (0, 12)}, r"classes: expected two different ones of \[0, 1, .*got \(0, 12\)"),
        ({"classes": (1, 1)}, "classes: expected two different ones"),
        ({"classes": 4}, "classes: expected two different ones"),
        ({"samples": 0}, "samples: expected an integer >= 1"),
        ({"test": -1}, "test: expected an integer >= 0"),
    ],
)
def test_impossible_digits(change, message):
    pytest.importorskip("sklearn")
    with pytest.raises(ValueError, match=message):
        data.digits(**({"samples": 10} | change))


def test_missing_scikit_learn_is_explained():
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "from linkern import data\n"
        "try:\n    data.digits(samples=4)\n"
        "except ImportError as error:\n    assert \"pip install 'linkern[data]'\" in str(error)\n"
        "else:\n    sys.exit(1)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- MNIST


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def mnist_arrays():
    rng = np.random.default_rng(0)
    return {
        part: (rng.integers(1, 256, (n, 28, 28), dtype=np.uint8), np.arange(n, dtype=np.uint8) % 4)
        for part, n in (("train", 40), ("t10k", 12))
    }


@pytest.fixture(params=["raw", "gz", "torchvision"])
def mnist_folder(request, tmp_path):
    folder = tmp_path / "MNIST" / "raw" if request.param == "torchvision" else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    for part, arrays in mnist_arrays().items():
        for name, array in zip(("images-idx3", "labels-idx1"), arrays, strict=True):
            path = folder / f"{part}-{name}-ubyte"
            if request.param == "gz":
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(idx(array)))
            else:
                path.write_bytes(idx(array))
    return tmp_path


@pytest.mark.parametrize("size", [28, 32])
def test_mnist(mnist_folder, size):
    task = data.mnist(mnist_folder, classes=(2, 0), samples=12, test=6, size=size, sphere=False, rng=3)
    assert task.X.shape == (12, size * size)
    assert task.X_test.shape == (6, size * size)
    arrays = mnist_arrays()
    for X, y, part in ((task.X, task.y, "train"), (task.X_test, task.y_test, "t10k")):
        images, labels = arrays[part]
        assert y.sum() == 0
        for x, label in zip(X, y, strict=True):
            frame = (size - 28) // 2
            square = x.reshape(size, size)
            assert square.sum() == pytest.approx(square[frame : frame + 28, frame : frame + 28].sum(), rel=1e-14)
            inner = np.rint(255 * square[frame : frame + 28, frame : frame + 28])
            match = np.flatnonzero((images == inner).all(axis=(1, 2)))
            assert match.size == 1
            assert labels[match[0]] == (2 if label > 0 else 0)
    sphere = data.mnist(mnist_folder, samples=4)
    np.testing.assert_allclose((sphere.X**2).mean(axis=1), 1, rtol=1e-14)
    assert sphere.X_test.shape == (0, 784)


def test_mnist_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected the file train-images-idx3-ubyte in .*found none of: .*gz"):
        data.mnist(tmp_path, samples=2)
    images = tmp_path / "train-images-idx3-ubyte"
    labels = tmp_path / "train-labels-idx1-ubyte"
    array = mnist_arrays()["train"]
    images.write_bytes(idx(array[0]))
    labels.write_bytes(idx(array[1][:-1]))
    with pytest.raises(ValueError, match=r"expected as many labels as images in .*got 39 and 40"):
        data.mnist(tmp_path, samples=2)
    labels.write_bytes(idx(array[1]))
    with pytest.raises(FileNotFoundError, match="t10k-images-idx3-ubyte"):
        data.mnist(tmp_path, samples=2, test=2)
    with pytest.raises(ValueError, match=r"size: expected one of \(28, 32\), got 30"):
        data.mnist(tmp_path, samples=2, size=30)
    for content, message in (
        (b"", "expected an idx header 00000803, got an empty file"),
        (idx(array[1]), "expected an idx header 00000803, got 00000801"),
        (idx(array[0])[:-5], r"expected 16 bytes of header and entries of shape \(40, 28, 28\), got 31371 bytes"),
        (idx(array[0])[:9], "expected 16 bytes of header and entries of shape"),
    ):
        images.write_bytes(content)
        with pytest.raises(ValueError, match=f"{images.name}: {message}"):
            image_files.read_mnist(tmp_path, "train")
    images.unlink()
    for damage in (b"not gzip at all", gzip.compress(idx(array[0]))[:-40]):
        (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(damage)
        with pytest.raises(ValueError, match="gz: expected a gzip file, got a damaged one"):
            image_files.read_mnist(tmp_path, "train")


# ---- CIFAR-10


def cifar_records(seed, n=20):
    rng = np.random.default_rng(seed)
    return np.concatenate([np.arange(n, dtype=np.uint8)[:, None] % 5, rng.integers(0, 256, (n, 3072), dtype=np.uint8)], axis=1)


@pytest.fixture(params=["", "cifar-10-batches-bin"])
def cifar_folder(request, tmp_path):
    folder = tmp_path / request.param
    folder.mkdir(exist_ok=True)
    for i in range(1, 6):
        (folder / f"data_batch_{i}.bin").write_bytes(cifar_records(i).tobytes())
    (folder / "test_batch.bin").write_bytes(cifar_records(6).tobytes())
    return tmp_path


@pytest.mark.parametrize("grey", [True, False])
@pytest.mark.parametrize("size", [28, 32])
def test_cifar10(cifar_folder, size, grey):
    task = data.cifar10(
        cifar_folder, classes=(4, 1), samples=30, test=8, size=size, grey=grey, sphere=False, rng=np.random.default_rng(2)
    )
    edge = (32 - size) // 2
    for X, y, seeds in ((task.X, task.y, range(1, 6)), (task.X_test, task.y_test, [6])):
        records = np.concatenate([cifar_records(seed) for seed in seeds])
        images = records[:, 1:].reshape(-1, 3, 32, 32)[:, :, edge : 32 - edge, edge : 32 - edge] / 255
        if grey:
            images = 0.299 * images[:, 0] + 0.587 * images[:, 1] + 0.114 * images[:, 2]
        images = images.reshape(len(records), -1)
        assert X.shape == (len(y), images.shape[1])
        assert len(rows(X)) == len(y)
        for x, label in zip(X, y, strict=True):
            nearest = np.abs(images - x).max(axis=1)
            assert nearest.min() < 1e-14
            assert records[nearest.argmin(), 0] == (4 if label > 0 else 1)
    assert data.cifar10(cifar_folder, samples=3, grey=grey, size=size).X_test.shape == (0, X.shape[1])


def test_cifar10_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected the file data_batch_1.bin in .*cifar-10-batches-bin"):
        data.cifar10(tmp_path, samples=2)
    pickled = tmp_path / "cifar-10-batches-py"
    pickled.mkdir()
    (pickled / "data_batch_1").write_bytes(b"\x80\x03}")
    with pytest.raises(FileNotFoundError, match=r"pickled and is not read here.*binary version"):
        data.cifar10(tmp_path, samples=2)
    for i in range(1, 6):
        (tmp_path / f"data_batch_{i}.bin").write_bytes(cifar_records(i).tobytes())
    with pytest.raises(FileNotFoundError, match=r"test_batch.bin"):
        data.cifar10(tmp_path, samples=2, test=2)
    (tmp_path / "data_batch_3.bin").write_bytes(cifar_records(3).tobytes()[:-1])
    with pytest.raises(ValueError, match=r"data_batch_3.bin: expected records of 3073 bytes, got 61459 bytes"):
        data.cifar10(tmp_path, samples=2)
    (tmp_path / "data_batch_3.bin").write_bytes(bytes([77]) * 3073)
    with pytest.raises(ValueError, match=r"data_batch_3.bin: expected labels 0 ... 9, got 77"):
        data.cifar10(tmp_path, samples=2)


# ---- synthetic tasks


def test_linear_teacher():
    quiet, noisy = (data.linear_teacher(4000, 10, test=50, noise=noise, rng=4) for noise in (0.0, 0.5))
    assert np.linalg.norm(quiet.teacher) == pytest.approx(1, rel=1e-14)
    np.testing.assert_allclose(quiet.y, quiet.X @ quiet.teacher, atol=1e-13)
    np.testing.assert_allclose(noisy.y_test, noisy.X_test @ noisy.teacher, atol=1e-13)
    np.testing.assert_array_equal(noisy.X, quiet.X)
    assert np.std(noisy.y - quiet.y) == pytest.approx(0.5, rel=0.05)
    assert np.abs(quiet.X.T @ quiet.X / 4000 - np.eye(10)).max() < 0.1
    assert quiet.X_test.shape == (50, 10)
    with pytest.raises(ValueError, match="noise: expected a finite number >= 0"):
        data.linear_teacher(3, 2, noise=-1.0)


@pytest.mark.parametrize(("samples", "dimension", "test"), [(40, 6, 24), (50, 70, 20), (3, 62, 0), (1, 1, 1)])
def test_ising_teacher(samples, dimension, test):
    task = data.ising_teacher(samples, dimension, test=test, rng=9)
    again = data.ising_teacher(samples, dimension, test=test, rng=9)
    assert task.X.shape == (samples, dimension)
    assert task.X_test.shape == (test, dimension)
    for X, y in ((task.X, task.y), (task.X_test, task.y_test)):
        assert set(np.unique(X)) <= {-1.0, 1.0}
        assert (y * (X @ task.teacher) > 0).all()
        assert set(np.unique(y)) <= {-1.0, 1.0}
    assert len(rows(np.vstack([task.X, task.X_test]))) == samples + test
    np.testing.assert_array_equal(again.X, task.X)
    np.testing.assert_array_equal(again.y_test, task.y_test)


def test_ising_spins_are_fair():
    task = data.ising_teacher(4000, 80, rng=0)
    assert np.abs(task.X.mean(axis=0)).max() < 5 / np.sqrt(4000)
    assert abs(task.y.mean()) < 5 / np.sqrt(4000)
    with pytest.raises(ValueError, match=r"samples, test: expected at most 2\^3 distinct inputs in all, got 9"):
        data.ising_teacher(6, 3, test=3)


@pytest.mark.parametrize(("samples", "dimension", "rng"), [(8, None, None), (8, 30, None), (7, 30, 3), (16, 16, 3)])
def test_whitened_task(samples, dimension, rng):
    task = data.whitened(samples, dimension, rng=rng)
    D = task.X.shape[1]
    assert (dimension or samples) == D
    np.testing.assert_allclose(task.X @ task.X.T / D, np.eye(samples), atol=2e-15)
    assert np.linalg.norm(task.y) == pytest.approx(1, rel=1e-15)
    assert (np.sign(task.y) == 1).sum() == (samples + 1) // 2
    assert task.X_test.shape == (0, D)
    assert rng is None or (task.X != 0).all()


def test_whitened_needs_room():
    with pytest.raises(ValueError, match="dimension: expected an integer >= 5, got 4"):
        data.whitened(5, 4)


# ---- preprocessing


def test_whiten_gives_the_identity_and_the_closest_inputs():
    X = np.random.default_rng(0).standard_normal((5, 9))
    Z = data.whiten(X)
    np.testing.assert_allclose(Z @ Z.T / 9, np.eye(5), atol=5e-15)
    # The symmetric square root (X X^T / D)^{-1/2} X is the same map, by another route.
    np.testing.assert_allclose(Z, linalg.inv(linalg.sqrtm(X @ X.T / 9).real) @ X, atol=1e-12)
    frame = linalg.qr(np.random.default_rng(1).standard_normal((9, 5)), mode="economic")[0].T * 3
    assert np.linalg.norm(X - Z) < np.linalg.norm(X - frame)


@pytest.mark.parametrize("kind", ["more points than dimensions", "duplicate", "all zero"])
def test_whiten_where_the_identity_is_impossible(kind):
    X = np.random.default_rng(0).standard_normal((7, 4) if "more" in kind else (4, 7))
    if kind == "duplicate":
        X[2] = X[0]
    if kind == "all zero":
        X = 0 * X
    rank = {"duplicate": 3, "all zero": 0}.get(kind, 4)
    with pytest.raises(ValueError, match=f"X: expected {len(X)} linearly independent rows.*got rank {rank}.*project=True"):
        data.whiten(X)
    Z = data.whiten(X, project=True)
    C = Z @ Z.T / X.shape[1]
    np.testing.assert_allclose(C @ C, C, atol=1e-14)
    assert np.trace(C) == pytest.approx(rank, abs=1e-13)
    np.testing.assert_allclose(C @ X, X, atol=1e-13)


def test_normalise():
    rng = np.random.default_rng(0)
    X, X_test = rng.standard_normal((6, 3)) + 2, rng.standard_normal((2, 3))
    centred, test = data.normalise(X, X_test, center=True, sphere=True)
    shifted = X - X.mean(axis=0)
    np.testing.assert_allclose(centred, np.sqrt(3) * shifted / np.linalg.norm(shifted, axis=1)[:, None], rtol=1e-13)
    np.testing.assert_allclose((test**2).sum(axis=1), 3, rtol=1e-14)
    same, empty = data.normalise(X, center=False, sphere=False)
    np.testing.assert_array_equal(same, X)
    assert not np.shares_memory(same, X)
    assert empty.shape == (0, 3)


@pytest.mark.parametrize(
    ("X", "X_test", "center", "message"),
    [
        ([[1.0, 2.0], [0.0, 0.0]], None, False, "X: expected non-zero rows for sphere=True, got row 1 = 0$"),
        (np.full((3, 5), 0.1), None, True, "X: expected non-zero rows for sphere=True, got row 0 = 0 after centring"),
        ([[1.0, 2.0]], [[0.0, 0.0]], False, "X_test: expected non-zero rows"),
        ([[1.0, 2.0]], [[0.0, 0.0, 1.0]], False, "X_test: expected 2 columns as in X"),
        ([[1.0, 2.0]], [[0.0, np.nan]], False, "X_test: expected finite numbers"),
        ([[1.0, np.inf]], None, False, "X: expected finite numbers"),
    ],
)
def test_bad_input_of_normalise(X, X_test, center, message):
    with pytest.raises(ValueError, match=message):
        data.normalise(X, X_test, center=center, sphere=True)
