import numpy as np
import pytest

from linkern.networks import autocorrelation_time, split_rhat, summarize


def autoregression(rho, chains, samples, rng, burn=500):
    """x_t = rho x_{t-1} + noise, variance 1: autocorrelation time (1 + rho)/(1 - rho)."""
    x = rng.standard_normal(chains)
    out = np.empty((chains, samples))
    for t in range(-burn, samples):
        x = rho * x + np.sqrt(1 - rho**2) * rng.standard_normal(chains)
        if t >= 0:
            out[:, t] = x
    return out


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("chains", [1, 8])
def test_autocorrelation_time_of_an_autoregression(rho, chains):
    samples = 40000 // chains
    series = autoregression(rho, chains, samples, np.random.default_rng(1))
    tau = (1 + rho) / (1 - rho)
    # Sokal: relative variance 2 (2M + 1)/n with the window M = 5 tau in these units.
    error = tau * np.sqrt(2 * (10 * tau + 1) / series.size)
    assert error < 0.15 * tau
    assert abs(autocorrelation_time(series) - tau) < 4 * error
    summary = summarize(series)
    assert summary.reliable
    np.testing.assert_allclose(summary.effective_sample_size, series.size / summary.autocorrelation_time)
    assert abs(summary.mean) < 4 * summary.standard_error
    assert abs(summary.standard_error / np.sqrt(tau / series.size) - 1) < 4 * error / tau


def test_standard_error_covers_the_truth_as_often_as_it_should():
    """400 short correlated runs: z-scores of the mean have unit variance."""
    series = autoregression(0.6, 4 * 400, 200, np.random.default_rng(2)).reshape(400, 4, 200)
    summary = summarize(np.moveaxis(series, 0, -1))
    z = summary.mean / summary.standard_error
    assert abs(z.var() - 1) < 4 * np.sqrt(2 / 400)
    assert summary.reliable.mean() > 0.95


def test_every_entry_is_its_own_observable_and_the_sum_is_the_direct_one():
    series = autoregression(0.8, 30, 300, np.random.default_rng(3)).reshape(2, 3, 5, 300).transpose(0, 3, 1, 2)
    together = autocorrelation_time(series)
    for i, j in np.ndindex(3, 5):
        x = series[:, :, i, j] - series[:, :, i, j].mean()
        rho = np.array([(x[:, : 300 - k] * x[:, k:]).sum() for k in range(300)]) / (x**2).sum()
        tau = next(t for m in range(300) if m >= 5 * (t := 1 + 2 * rho[1 : m + 1].sum()))
        np.testing.assert_allclose(together[i, j], max(tau, 1.0), rtol=1e-10)


def test_alternating_chain_earns_no_credit():
    series = autoregression(-0.8, 2, 2000, np.random.default_rng(4))
    assert autocorrelation_time(series) == 1.0


def test_split_rhat():
    rng = np.random.default_rng(5)
    series = rng.standard_normal((4, 1000))
    assert abs(split_rhat(series) - 1) < 0.01
    shifted = series + np.array([0.0, 0.0, 0.0, 1.0])[:, None]
    # Means of eight halves 0 x 6 and 1 x 2 have variance 3/14, the halves themselves variance 1.
    np.testing.assert_allclose(split_rhat(shifted), np.sqrt(1 + 3 / 14), rtol=0.02)
    assert not summarize(shifted).reliable
    drifting = series + np.linspace(0, 2, 1000)
    assert split_rhat(drifting) > 1.1


def test_a_chain_shorter_than_fifty_autocorrelation_times_is_not_trusted():
    rng = np.random.default_rng(6)
    assert not summarize(autoregression(0.95, 1, 1000, rng)).reliable  # 26 tau
    assert summarize(autoregression(0.95, 1, 20000, rng)).reliable
    assert not summarize(rng.standard_normal((100, 8))).reliable  # enough in all, but no single chain is long


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-300, 0.1, 1e100])
def test_a_constant_has_no_error(value):
    summary = summarize(np.full((3, 50), value))
    assert summary.standard_error <= 1e-15 * value
    assert summary.autocorrelation_time == 1
    assert summary.split_rhat == 1


def test_bad_series():
    with pytest.raises(ValueError, match="series: expected at least 4 samples"):
        summarize(np.zeros((5, 3)))
    with pytest.raises(ValueError, match="series: expected 2 axes"):
        summarize(np.zeros(10))
    with pytest.raises(ValueError, match="series: expected finite numbers"):
        summarize(np.full((2, 10), np.nan))
