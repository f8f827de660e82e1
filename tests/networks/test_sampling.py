import numpy as np
import pytest

from linkern.activations import from_function
from linkern.networks import sample_posterior
from linkern.networks.observables import BatchMeans
from linkern.solution import ConvergenceError, Status

from .reference import problem

X, Y, X_TEST = problem()
SMALL = {"depth": 2, "width": 6, "gamma0": 1.0, "beta": 3.0, "chains": 8, "samples": 40, "burn_in": 70}


@pytest.mark.parametrize("integrator", ["hmc", "langevin"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_same_seed_same_result(integrator, dtype):
    settings = SMALL | {"integrator": integrator, "dtype": dtype, "thin": 2}
    first, second, from_generator, other = (
        sample_posterior(X, Y, **settings, rng=rng) for rng in (3, 3, np.random.default_rng(3), 4)
    )
    np.testing.assert_array_equal(first.kernels.mean, second.kernels.mean)
    np.testing.assert_array_equal(first.kernels.mean, from_generator.kernels.mean)
    assert not np.array_equal(first.kernels.mean, other.kernels.mean)
    assert first.parameters["seed"] == 3
    assert from_generator.parameters["seed"] is None
    assert all(W.dtype == dtype for W in first.final_weights)


def assert_agree(one, two, precision):
    for a, b in [(one.kernels, two.kernels), (one.train, two.train)]:
        error = np.hypot(a.standard_error, b.standard_error)
        assert error.max() < precision * np.abs(a.mean).max()
        assert (np.abs(a.mean - b.mean) < 4 * error).all()
    for run in (one, two):
        # The virial identity holds for any activation, at any width.
        assert (np.abs(run.virial.mean) < 4 * run.virial.standard_error).all()
        assert run.virial.standard_error.max() < precision
        assert run.residual == np.abs(run.virial.mean).max()
        assert run.status is Status.CONVERGED, run.reasons


@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_precisions_agree(activation):
    settings = {"depth": 2, "width": 12, "gamma0": 1.5, "beta": 3.0, "activation": activation, "chains": 64}
    double, single = (
        sample_posterior(X, Y, **settings, samples=150, dtype=dtype, rng=rng) for dtype, rng in [("f8", 1), ("f4", 2)]
    )
    assert_agree(double, single, 0.04)


def test_integrators_agree_for_a_nonlinear_network():
    settings = {"depth": 1, "width": 8, "gamma0": 1.0, "beta": 2.0, "activation": "relu", "chains": 64, "samples": 120}
    hmc = sample_posterior(X, Y, **settings, rng=1)
    langevin = sample_posterior(X, Y, **settings, integrator="langevin", dtype="float32", rng=2)
    assert_agree(hmc, langevin, 0.06)


def test_symmetries_of_the_data():
    """Rotated inputs and permuted points: the same posterior, up to the permutation."""
    r = np.random.default_rng(8)
    rotation = np.linalg.qr(r.standard_normal((6, 6)))[0]
    order = np.array([2, 0, 3, 1])
    settings = {"depth": 1, "width": 8, "gamma0": 1.5, "beta": 3.0, "activation": "relu", "chains": 64, "samples": 200}
    plain = sample_posterior(X, Y, **settings, rng=1)
    moved = sample_posterior(X[order] @ rotation, Y[order], **settings, rng=2)
    error = np.hypot(plain.kernels.standard_error[:, order][:, :, order], moved.kernels.standard_error)
    assert error.max() < 0.05
    assert (np.abs(plain.kernels.mean[:, order][:, :, order] - moved.kernels.mean) < 4 * error).all()
    np.testing.assert_allclose(plain.kernels.mean, plain.kernels.mean.swapaxes(1, 2), rtol=1e-12)


def test_result_and_callback():
    seen = []
    run = sample_posterior(X, Y, X_test=X_TEST, **SMALL, thin=3, rng=0, callback=seen.append)
    assert run.kernels.mean.shape == run.kernels.standard_error.shape == (2, 4, 4)
    assert run.overlap_traces.shape == (8, 40, 2)
    assert run.test.mean.shape == run.test_variance.shape == (3,)
    assert run.acceptance.shape == (8,)
    np.testing.assert_allclose(np.einsum("p,lpq,q->l", Y, run.kernels.mean, Y), run.overlaps.mean, rtol=1e-9)
    assert [p.phase for p in seen] == ["burn-in"] * 70 + ["sampling"] * 40
    assert (seen[0].done, seen[0].total, seen[69].done) == (1, 70, 70)
    assert (seen[-1].done, seen[-1].total) == (120, 120)
    assert seen[0].overlaps is None
    np.testing.assert_array_equal(seen[-1].overlaps, run.overlap_traces[:, -1])
    assert run.parameters | {"widths": (6, 6), "thin": 3, "burn_in": 70, "activation": "linear"} == run.parameters
    without = sample_posterior(X, Y, **SMALL, rng=0)
    assert without.test is None
    assert without.test_variance is None


def test_langevin_burn_in_forecast_ends_where_it_says():
    seen = []
    settings = SMALL | {"integrator": "langevin", "burn_in": None, "beta": 0.5}
    run = sample_posterior(X, Y, **settings, rng=0, callback=seen.append)
    last = [p for p in seen if p.phase == "burn-in"][-1]
    assert last.done == last.total == run.parameters["burn_in"]
    assert sum(p.step for p in seen if p.phase == "burn-in") >= 10


def test_a_run_can_be_continued():
    first = sample_posterior(X, Y, **SMALL, rng=0)
    kept = [W.copy() for W in first.final_weights]
    settings = SMALL | {"burn_in": 0, "step": first.step}
    second = sample_posterior(X, Y, **settings, rng=1, start=first.final_weights)
    for W, old in zip(first.final_weights, kept, strict=True):
        np.testing.assert_array_equal(W, old)
    assert second.parameters["burn_in"] == 0
    assert second.step == first.step
    assert second.acceptance.mean() > 0.5
    error = np.hypot(first.overlaps.standard_error, second.overlaps.standard_error)
    assert (np.abs(first.overlaps.mean - second.overlaps.mean) < 4 * error).all()


def test_too_few_samples_are_unreliable():
    run = sample_posterior(X, Y, **(SMALL | {"chains": 1, "samples": 8}), rng=0)
    assert run.status is Status.UNRELIABLE
    assert any("effective sample size" in reason for reason in run.reasons)


def test_no_burn_in_is_noticed():
    """Chains that start at the prior of a rich problem drift, and the result says so."""
    settings = {"depth": 2, "width": 32, "gamma0": 5.0, "beta": 5.0, "chains": 4, "samples": 300, "burn_in": 0, "thin": 1}
    run = sample_posterior(X, Y, **settings, integrator="langevin", step=2e-4, rng=0)
    assert run.status is Status.UNRELIABLE
    assert any("R-hat" in reason for reason in run.reasons)
    assert "UNRELIABLE" in repr(run)
    assert "R-hat" in repr(run)


def test_short_burn_in_still_ends_at_the_full_posterior():
    settings = {"depth": 2, "width": 8, "gamma0": 1.0, "beta": 3.0, "chains": 32, "samples": 200}
    short, long = (sample_posterior(X, Y, **settings, burn_in=n, rng=n) for n in (30, 150))
    error = np.hypot(short.overlaps.standard_error, long.overlaps.standard_error)
    assert (np.abs(short.overlaps.mean - long.overlaps.mean) < 4 * error).all()
    assert 0.6 < short.acceptance.mean() < 0.95


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("function", [np.sqrt, lambda h: 1e200 * np.tanh(h)])
def test_an_activation_that_is_not_finite_is_named(function):
    phi = from_function(function, name="steep")
    for step in (None, 0.1):
        with pytest.raises(ValueError, match=r"activation: expected finite values and slopes .*, 'steep' gives an overflow"):
            sample_posterior(X, Y, **SMALL, activation=phi, step=step, rng=0)


def test_trajectories_without_end_are_refused():
    with pytest.raises(ValueError, match="beta, activation: expected a stiffness"):
        sample_posterior(X, Y, **(SMALL | {"beta": 1e14}), rng=0)


def test_unstable_langevin_step_is_an_error():
    with pytest.raises(ConvergenceError, match=r"step: the Langevin step h = 0\.5 is unstable"):
        sample_posterior(X, Y, **(SMALL | {"beta": 200.0}), integrator="langevin", step=0.5, rng=0)


def test_large_langevin_step_is_unreliable():
    bound = 2 / (1 + sample_posterior(X, Y, **SMALL, rng=0).stiffness)
    settings = SMALL | {"integrator": "langevin", "step": 0.7 * bound, "burn_in": 200, "thin": 20}
    run = sample_posterior(X, Y, **settings, rng=0)
    assert any("stability bound" in reason for reason in run.reasons)


def test_hmc_step_too_large_is_unreliable():
    run = sample_posterior(X, Y, **SMALL, step=1.5, rng=0)
    assert any("acceptance" in reason for reason in run.reasons)


def test_degenerate_but_legal_problems():
    """One point, one input, one neuron, duplicated and constant data."""
    tiny = {"depth": 1, "width": 1, "gamma0": 1.0, "beta": 1.0, "chains": 4, "samples": 20, "burn_in": 80, "rng": 0}
    assert np.isfinite(sample_posterior([[1.0]], [1.0], **tiny).kernels.mean).all()
    same = sample_posterior(np.ones((3, 2)), [1.0, 1.0, -1.0], **(tiny | {"width": 5}))
    np.testing.assert_allclose(same.kernels.mean, np.full((1, 3, 3), same.kernels.mean[0, 0, 0]), rtol=1e-12)


def test_batch_means_of_uneven_batches():
    values = np.random.default_rng(0).standard_normal((2, 75, 3))
    batches = BatchMeans(75)
    firsts = [batches.add(i, values[:, i]) for i in range(75)]
    assert sum(firsts) == batches.series.shape[1] == 32
    edges = np.flatnonzero(firsts)
    expected = np.stack([values[:, a:b].mean(axis=1) for a, b in zip(edges, [*edges[1:], 75], strict=True)], axis=1)
    np.testing.assert_allclose(batches.series, expected)
    np.testing.assert_allclose(batches.mean, values.mean(axis=(0, 1)))


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("X", [[np.nan] * 6] * 4, ValueError), ("X", np.zeros(4), ValueError), ("X", "text", TypeError),
        ("y", np.zeros(4), ValueError), ("y", np.ones(3), ValueError), ("y", [1, 2, np.inf, 0], ValueError),
        ("y", np.ones((4, 2)), ValueError),
        ("beta", -1.0, ValueError), ("beta", np.inf, ValueError), ("beta", "cold", TypeError),
        ("gamma0", -1.0, ValueError), ("depth", 0, ValueError), ("width", (3, 4, 5), ValueError),
        ("samples", 3, ValueError), ("samples", 10.0, TypeError), ("chains", 0, ValueError),
        ("burn_in", -1, ValueError), ("thin", 0, ValueError),
        ("step", 0.0, ValueError), ("step", 3.5, ValueError), ("integrator", "euler", ValueError),
        ("dtype", "int32", ValueError), ("rng", "seed", TypeError),
        ("X_test", np.ones((2, 5)), ValueError), ("X_test", [[np.inf] * 6], ValueError),
        ("start", [np.zeros((8, 6, 6))], ValueError), ("start", 3, TypeError),
    ],
)  # fmt: skip
def test_bad_input_names_the_argument(argument, value, error):
    settings = SMALL | {"X": X, "y": Y, "rng": 0} | {argument: value}
    with pytest.raises(error, match=f"{argument}: expected"):
        sample_posterior(**settings)
