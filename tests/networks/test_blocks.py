import numpy as np
import pytest
from scipy import stats

from linkern.networks import blocks
from linkern.networks.noise import standard_normal


def state(chains, rows, columns, points, dtype, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(chains, rows, columns)] * 2 + [(chains, rows, points), (chains, columns, points)]
    return [rng.standard_normal(s).astype(dtype) for s in shapes]


@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 3, 5), (2, 40, 30), (1, 1, 300)])
@pytest.mark.parametrize("block_bytes", [8, 200, 4096, 1 << 19])
def test_kick_and_rotate_is_the_formula_for_any_blocking(shape, block_bytes, monkeypatch):
    monkeypatch.setattr(blocks, "_BLOCK_BYTES", block_bytes)
    W, p, left, right = state(*shape, 4, np.float64)
    kicked = p - 0.3 * np.einsum("cip,cjp->cij", left, right)
    expected = np.cos(0.4) * W + np.sin(0.4) * kicked, np.cos(0.4) * kicked - np.sin(0.4) * W
    norms = blocks.squared_norms([W, p])
    np.testing.assert_allclose(norms, [[np.sum(a[c] ** 2) for a in (W, p)] for c in range(shape[0])], rtol=1e-13)
    blocks.kick_and_rotate(W, p, left, right, kick=0.3, angle=0.4)
    np.testing.assert_allclose(W, expected[0], rtol=0, atol=1e-13)
    np.testing.assert_allclose(p, expected[1], rtol=0, atol=1e-13)


def test_float32_rotation_conserves_the_energy_of_a_million_weights():
    """The Metropolis test compares energies to about 0.1; they are of order 10^6 here."""
    W, p, left, right = state(1, 1000, 1000, 1, np.float32)
    before = blocks.squared_norms([W, p]).sum() / 2
    for angle in (0.01, 0.0371, 0.3):
        for _ in range(30):
            blocks.kick_and_rotate(W, p, left, right, kick=0.0, angle=angle)
        assert abs(blocks.squared_norms([W, p]).sum() / 2 - before) < 0.02


def test_squared_norms_of_float32_are_summed_in_float64():
    W = np.full((1, 1000, 1000), 0.1, dtype=np.float32)
    np.testing.assert_allclose(blocks.squared_norms([W]), [[1e6 * float(np.float32(0.1)) ** 2]], rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_langevin_update_is_the_formula_and_keeps_the_prior(dtype):
    W, _, left, right = state(2, 400, 500, 3, dtype)
    start = W.astype(float)
    h = 0.5
    decay, drift, noise = np.exp(-h), 1 - np.exp(-h), np.sqrt(1 - np.exp(-2 * h))
    blocks.langevin_update(np.random.default_rng(1), W, left, right, decay=decay, drift=drift, noise=noise)
    xi = (W - decay * start + drift * np.einsum("cip,cjp->cij", left, right, dtype=float)) / noise
    assert stats.kstest(xi.ravel(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(xi.ravel(), start.ravel())[0, 1]) < 4 / np.sqrt(xi.size)
    W = start.astype(dtype)
    for seed in range(10):
        blocks.langevin_update(np.random.default_rng(seed), W, 0 * left, right, decay=decay, drift=drift, noise=noise)
    assert abs(np.square(W.astype(float)).mean() - 1) < 4 * np.sqrt(2 / W.size)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_noise_is_standard_normal_and_independent(dtype):
    x = standard_normal(np.random.default_rng(7), np.empty(3_000_001, dtype=dtype)).astype(float)
    n = x.size
    moments = [x.mean(), (x**2).mean() - 1, (x**3).mean(), (x**4).mean() - 3]
    assert (np.abs(moments) < 4 * np.sqrt(np.array([1, 2, 15, 96]) / n)).all()
    for threshold in (3.0, 4.0):
        expected = 2 * n * stats.norm.sf(threshold)
        assert abs((np.abs(x) > threshold).sum() - expected) < 4 * np.sqrt(expected)
    assert stats.kstest(x[:500_000], "norm").pvalue > 1e-3
    # Neighbours, and partners of the Box-Muller transform (2^14 apart), in value and in size.
    for lag in (1, 2, 1 << 14):
        for a in (x, x**2 - 1):
            assert abs((a[:-lag] * a[lag:]).mean()) < 4 * a.var() / np.sqrt(n)


@pytest.mark.parametrize("size", [0, 1, 2, 3, (1 << 15) - 1, (1 << 15) + 1])
def test_noise_fills_arrays_of_any_size(size):
    out = np.full(size, np.nan, dtype=np.float32)
    assert standard_normal(np.random.default_rng(0), out) is out
    assert np.isfinite(out).all()
    assert np.unique(out).size > 0.99 * size - 1
