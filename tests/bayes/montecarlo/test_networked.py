"""The solver by finite networks: closed forms, quadrature, independent samples, and what it says about itself."""

import types
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from linkern.bayes import solve_linear
from linkern.bayes.montecarlo import solve_montecarlo, solve_quadrature, solver
from linkern.bayes.montecarlo.wide import agreement, network
from linkern.bayes.montecarlo.wide import networked as module
from linkern.bayes.montecarlo.wide.networked import population_for
from linkern.lazy import layer_kernels
from linkern.solution import ConvergenceError, Status

# Four standard deviations, as Student's t counts them for eight networks.
LEVEL = 1 - 2 * stats.norm.sf(4)


def solve(X, y, **changes):
    options = {"depth": 1, "gamma0": 1.2, "beta": 8.0, "activation": "relu", "tol": 0.03, "method": "networks", "rng": 1}
    return solve_montecarlo(X, y, **(options | changes))


def data(P, D=4, outputs=None, seed=5):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((P, D)), rng.standard_normal(P if outputs is None else (P, outputs)), rng.standard_normal((3, D))


def near(estimate, truth, *, bias, error=0.0):
    """Within the interval, widened by what extrapolation leaves of the width's bias and by the truth's own error."""
    half = stats.t.ppf((1 + LEVEL) / 2, estimate.degrees) * np.hypot(estimate.standard_error, error)
    assert (np.abs(estimate.value - truth) < half + bias * np.abs(truth).max()).all()


def consistent(found, tol):
    """The equations hold with what is returned, and neurons carry the kernels."""
    g, T, Y = found.parameters["prior_variances"], 1 / found.parameters["beta"], found.labels
    V, kernels = found.sample.coefficients, found.kernels
    np.testing.assert_allclose((g[-1] * kernels[-1] + T * np.eye(len(Y))) @ V, Y, atol=1e-9 * np.abs(Y).max())
    np.testing.assert_allclose(found.dual_kernels[-1], -(found.parameters["gamma0"] ** 2) * g[-1] * V @ V.T, rtol=1e-9)
    for part in (found.sample, *found.sections):
        for l, site in enumerate(part.sites):
            np.testing.assert_allclose(site.base, g[l] * part.kernels[l], atol=1e-6 * np.abs(kernels[l]).max())
            average = (site.features * site.weights[:, None]).T @ site.features
            np.testing.assert_allclose(average, part.kernels[l + 1], atol=3e-3 * np.abs(kernels[l + 1]).max())
    assert found.status is Status.CONVERGED
    assert found.residual < tol
    assert found.kernel_errors.max() <= 1.05 * tol
    assert len(found.sections) == solver.GROUPS


def test_linear_activation_is_the_closed_form():
    X, y, X_new = data(5, D=6)
    problem = {"depth": 2, "gamma0": 1.0, "beta": 6.0, "prior_variances": [0.9, 1.1, 1.2]}
    exact = solve_linear(X, y, **problem)
    found = solve(X, y, activation="linear", **problem)
    consistent(found, 0.03)
    near(found.estimate(lambda s: s.kernels), np.stack([K.dense() for K in exact.kernels]), bias=0.005)
    near(found.estimate(lambda s: s.coefficients[:, 0]), exact.dual_coefficients, bias=0.005)
    near(found.prediction(X_new), exact.predict(X_new), bias=0.01)
    # Tr(Phi^l hatPhi^l) is the same for every layer: duals come from the neurons of the layer above.
    charges = found.estimate(lambda s: np.diff(np.einsum("lij,lij->l", s.kernels[1:], s.dual_kernels)))
    near(charges, np.zeros(1), bias=0.0)
    assert found.identity < 0.05


@pytest.mark.parametrize(("activation", "outputs", "depth"), [("relu", None, 1), ("tanh", 2, 1), ("relu", None, 2)])
def test_quadrature_is_reproduced(activation, outputs, depth):
    X, y, _ = data(2, outputs=outputs)
    problem = {
        "depth": depth,
        "gamma0": 1.2,
        "beta": 8.0,
        "activation": activation,
        "prior_variances": [0.8, 1.0, 1.1][-depth - 1 :],
    }
    exact, found = solve_quadrature(X, y, tol=1e-4, **problem), solve(X, y, **problem)
    consistent(found, 0.03)
    assert found.dual_coefficients.shape == y.shape
    near(found.estimate(lambda s: s.kernels), exact.kernels, bias=0.005)
    near(found.estimate(lambda s: s.coefficients), exact.dual_coefficients.reshape(2, -1), bias=0.005)
    near(found.estimate(lambda s: s.dual_kernels), exact.dual_kernels, bias=0.02)


def test_independent_samples_agree():
    X, y, X_new = data(8, D=6)
    found, other = (solve(X, y, beta=50.0, method=method) for method in ("networks", "importance"))
    consistent(found, 0.03)
    for quantity in (lambda s: s.kernels, lambda s: s.coefficients):
        truth = other.estimate(quantity)
        near(found.estimate(quantity), truth.value, bias=0.005, error=truth.standard_error)
    truth = other.prediction(X_new)
    near(found.prediction(X_new), truth.value, bias=0.005, error=truth.standard_error)


@pytest.fixture
def hurried(monkeypatch):
    """Few trajectories: what is tested does not need networks that have arrived."""
    for name, value in (
        ("_RUNGS", 4),
        ("_TURNS", 1),
        ("_SETTLING", 2),
        ("_DOUBLINGS", 0),
        ("_PILOT_RUNGS", 4),
        ("_PILOT", 2),
        ("_FOREGOING", 2),
        ("_REFRESHING", 2),
        ("_FIRST", (4, 4)),
        ("_LEAST", 4),
        ("_RESTARTS", 0),
    ):
        monkeypatch.setattr(module, name, value)


@pytest.mark.usefixtures("hurried")
def test_networks_stand_in_where_proposals_do_not_cover(monkeypatch):
    X, y, _ = data(2)
    monkeypatch.setattr(solver, "_LARGEST_RANK", 1)

    def lost(*args, **kwargs):
        raise ConvergenceError("lost")

    monkeypatch.setattr(solver, "pooled", lost)
    options = {"tol": 0.1, "max_samples": 1, "depth": 2, "raise_on_failure": False}
    runs = ("auto", 3), ("networks", 3), ("auto", 4)
    one, two, other = (solve(X, y, method=method, rng=seed, **options) for method, seed in runs)
    np.testing.assert_array_equal(one.kernels, two.kernels)
    np.testing.assert_array_equal(one.standard_error, two.standard_error)
    assert (one.kernels[1:] != other.kernels[1:]).all()
    with pytest.raises(ConvergenceError, match="lost"):
        solve(X, y, method="particles", **options)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("depth", "residuals", "kept"),
    [(1, (0.0, 1.0, 1.0), 0), (1, (1.0, 0.0, 1.0), 1), (1, (0.0, 0.0, 0.0), 2), (2, (1.0, 0.0), 1), (2, (1.0, 1.0), 1)],
)
def test_the_last_answer_that_solves_the_equations_is_kept(depth, residuals, kept, monkeypatch):
    """Of answers that all have doubts; the order is particles, networks, with one hidden layer networks before."""
    X, y, _ = data(2)
    real, answers, reasons = module.networked, [], ("first", "second", "third")
    patient = []

    def answer(*args, **kwargs):
        patient.append(kwargs["patient"])
        found = answers[0] if answers else real(*args, **kwargs | {"patient": True})
        index = len(answers)
        answers.append(replace(found, residual=residuals[index], doubts=(reasons[index],)))
        return answers[index]

    options = {"depth": depth, "activation": "tanh", "tol": 0.1, "max_samples": 1, "raise_on_failure": False}
    monkeypatch.setattr(solver, "networked", answer)
    monkeypatch.setattr(
        solver,
        "_by_particles",
        lambda task, *args, **kwargs: answer(task, 0.1, 1, np.random.default_rng(0), None, networks=8, width=64, patient=None),
    )
    found = solve(X, y, method="auto", **options)
    assert patient == ([False, None, True] if depth == 1 else [None, True])
    assert reasons[kept] in found.reasons
    assert not (set(reasons) - {reasons[kept]}) & set(found.reasons)


def test_forbidden_labels_leave_the_kernel_lazy():
    X = np.vstack([data(2)[0], -data(2)[0]])
    seen = []
    found = solve(X, [1.0, -0.5, 1.0, -0.5], activation="tanh", callback=seen.append)
    assert found.status is Status.CONVERGED
    near(found.estimate(lambda s: s.kernels), layer_kernels(X, depth=1, activation="tanh"), bias=0.02)
    assert found.fitted == pytest.approx(0, abs=1e-6)
    assert seen == list(found.path)
    assert found.path[-1].temperature == pytest.approx(1 / 8)


@pytest.mark.usefixtures("hurried")
def test_small_budgets_raise_doubts():
    X, y, _ = data(3)
    found = solve(X, y, gamma0=2.0, beta=50.0, particles=512, tol=1e-3, max_samples=1, raise_on_failure=False)
    assert found.status is not Status.CONVERGED
    assert found.particles == 512
    assert found.snapshots == 4
    assert found.samples_needed > found.particles * found.snapshots


def history(shift):
    """Of eight networks, scattered by 1 %; the layers' kernels are multiples of one another."""
    rng, Y = np.random.default_rng(0), np.eye(2)[:, :1]
    sizes = 1 + 1e-2 * rng.standard_normal((20, 8)) + shift
    return [
        network.Snapshot(
            size[:, None, None, None] * np.stack([np.eye(2), 2 * np.eye(2)]), size[:, None, None] * Y, (np.zeros(1),)
        )
        for size in sizes
    ]


def test_networks_that_drift_or_disagree_are_reported():
    problem = module.Task.checked(*data(2)[:2], None, 2, 1.0, 8.0, "relu", 1.0).problem
    nets = types.SimpleNamespace(width=64)

    def doubts(shift):
        return module._doubts(module._Run(problem, nets, history(shift), 5))

    assert not doubts(0.0)
    assert "width 64 still drift" in doubts(np.linspace(0, 0.1, 20)[:, None])[0]
    (apart,) = doubts(0.1 * (np.arange(8) < 4))
    assert "width 64 disagree, R-hat" in apart


def test_sides_that_differ_are_noticed():
    problem = module.Task.checked(*data(2)[:2], None, 1, 1.0, 8.0, "relu", 1.0).problem
    nets = types.SimpleNamespace(width=64)
    for shift, expected in ((0.0, 0.0), (0.05, 0.05), (-0.05, 0.05), (0.004, 0.0)):
        drawn = [snapshot._replace(kernels=snapshot.kernels[:, :1]) for snapshot in history(shift * (np.arange(8) < 4))]
        tables = [agreement.table(problem.Y, snapshot) for snapshot in drawn]
        assert agreement.hysteresis(tables, 1e-3) == pytest.approx(expected, abs=0.01 if expected else 0)
        doubts = [doubt for doubt in module._doubts(module._Run(problem, nets, drawn, 5)) if "stronger feature learning" in doubt]
        assert len(doubts) == (expected > 0)


def test_networks_settle_until_sides_agree(monkeypatch):
    """Those that come from beyond need 50 turns to come back."""
    turns = []

    class Slow:
        width, acceptance = 64, 1.0

        def __init__(self, problem, width, rng, *, networks, hold, level):
            self.rng = rng

        def climb(self, *args, **kwargs):
            assert kwargs["beyond"] > 1

        def wait(self, count):
            turns.extend(range(count))

        def settle(self, count):
            self.wait(count)
            return 0.3

        def draw(self, count):
            found = []
            for _ in range(count):
                turns.append(0)
                size = 1 + 1e-3 * self.rng.standard_normal(8) + 0.2 * (np.arange(8) >= 4) * np.exp(-len(turns) / 50)
                K, V = size[:, None, None, None] * np.eye(2), size[:, None, None] * np.ones((2, 1))
                found.append(network.Snapshot(K, V, (np.ones((8, 4, 2)),)))
            return found

    monkeypatch.setattr(module, "Neurons", Slow)
    task = module.Task.checked(*data(2)[:2], None, 1, 1.0, 8.0, "relu", 1.0)
    # Who does not wait has nothing.
    assert module.networked(task, 0.1, None, np.random.default_rng(0), None, networks=8, width=64, patient=False) is None
    turns.clear()
    run, _ = module._climbed(task, 8, 64, np.random.default_rng(0), 5, None, module._DOUBLINGS)
    assert len(turns) >= 150
    assert run.count == 12
    np.testing.assert_allclose(run.kernels, np.broadcast_to(np.eye(2), (8, 1, 2, 2)), atol=0.02)


@pytest.mark.parametrize("kept", [0.0, 0.1])
def test_differences_that_time_does_not_average_over_end_the_wait(kept):
    """Of eight networks each value is known to `kept`, and in time to 0.2/sqrt(snapshots) beside."""
    problem = module.Task.checked(*data(2)[:2], None, 1, 1.0, 8.0, "relu", 1.0).problem
    rng = np.random.default_rng(4)
    own = kept * rng.standard_normal((8, 1, 3))

    def draw(count):
        drawn = []
        for entries in 1 + own + 0.2 * rng.standard_normal((count, 8, 1, 3)):
            K = entries[..., [[0, 1], [1, 2]]] * (1 + np.eye(2))
            drawn.append(network.Snapshot(K, np.ones((8, 2, 1)), ()))
        return drawn

    run = module._Run(problem, types.SimpleNamespace(draw=draw, width=64), draw(12), 2)
    average = module._precise(problem, [run], 0.01, 400)
    if kept:
        assert average.needed is None
        assert 48 <= run.count < 100
        assert average.errors[0] == pytest.approx(0.1 / np.sqrt(8), rel=0.6)
    else:
        assert run.count <= average.needed < 1.1 * run.count
        assert average.errors[0] < 0.011


@pytest.mark.parametrize(("apart", "waits"), [(0.02, True), (0.1, False)])
def test_networks_do_not_wait_for_an_agreement_out_of_reach(apart, waits):
    """Of eight networks each comes from so far away and forgets within 30 snapshots, with noise of a hundredth beside."""
    problem = module.Task.checked(*data(2)[:2], None, 1, 1.0, 8.0, "relu", 1.0).problem
    rng, shift = np.random.default_rng(4), apart * np.linspace(-1, 1, 8).reshape(2, 4).T.ravel()
    drawn = []

    def draw(count):
        sizes = [1 + shift * np.exp(-(len(drawn) + k) / 30) + 0.01 * rng.standard_normal(8) for k in range(count)]
        drawn.extend(sizes)
        return [
            network.Snapshot(size[:, None, None, None] * np.eye(2), size[:, None, None] * np.ones((2, 1)), ()) for size in sizes
        ]

    run = module._Run(problem, types.SimpleNamespace(draw=draw, width=64), draw(12), 2)
    assert module.largest_rhat(run.tables) > module._LARGEST_RHAT
    module._precise(problem, [run], 0.1, 400)
    assert (run.count > 12) == waits
    assert any("R-hat" in doubt for doubt in module._doubts(run)) != waits


@pytest.mark.parametrize(
    ("activation", "points", "ratios", "turns"),
    [
        ("relu", 40, [1.0], 20),
        ("relu", 40, [0.4, 0.7, 0.9, 1.0], 40),
        ("relu", 40, [0.5] * 20, 100),
        ("relu", 120, [], 60),
        ("tanh", 120, [1.0], 30),
        ("tanh", 480, [1.0], 120),
    ],
)
def test_networks_settle_while_tilts_concentrate_and_longer_with_many_points(activation, points, ratios, turns, monkeypatch):
    """Their participation falls by these ratios every ten turns."""
    settled, asked, participation = [], [], np.cumprod([0.3, *ratios]).tolist()

    def settle(count):
        settled.append(count)
        return participation.pop(0)

    nets = types.SimpleNamespace(climb=lambda *args, **kwargs: None, settle=settle, draw=lambda count: [])
    monkeypatch.setattr(module, "Neurons", lambda *args, **kwargs: asked.append(kwargs["level"]) or nets)
    task = types.SimpleNamespace(
        problem=module.Task.checked(*data(points)[:2], None, 1, 1.0, 8.0, activation, 1.0).problem, first=0.1
    )
    _, doubts = module._climbed(task, 8, 64, None, 5, None, 0)
    assert sum(settled) == turns
    assert asked == [activation == "relu" and points > 100]
    assert any("concentrate" in doubt for doubt in doubts) == (turns == 100)


def test_runs_average_over_all_and_keep_some_neurons():
    problem = module.Task.checked(*data(2)[:2], None, 2, 1.0, 8.0, "relu", 1.0).problem
    drawn = history(0.0)
    run = module._Run(problem, types.SimpleNamespace(draw=lambda count: drawn[5 : 5 + count]), drawn[:5], 10)
    assert len(run.held) == 5
    run.extend(20)
    assert len(run.held) == 10
    assert run.count == len(run.tables) == 20
    np.testing.assert_allclose(run.kernels, np.mean([snapshot.kernels for snapshot in drawn], axis=0))
    np.testing.assert_allclose(run.V, np.mean([snapshot.V for snapshot in drawn], axis=(0, 1)))
    Y = problem.Y
    expected = [np.trace(Y.T @ drawn[3].V[2]), *(np.trace(Y.T @ drawn[3].kernels[2, l] @ Y) for l in range(2))]
    np.testing.assert_allclose(run.tables[3][:, 2], expected)


@pytest.mark.parametrize(("chosen", "networks", "times"), [([0, 1, 2, 3], 8, 1), ([2, 1], 8, 4), ([0, 1, 2, 3], 4, 8)])
def test_merged_networks_have_neurons_of_one_pilot_and_nothing_in_common(chosen, networks, times):
    count = 16 if len(chosen) == 2 else 8
    label = np.arange(4.0)[:, None, None] + 10 * np.arange(count)[:, None, None, None]
    drawn = [network.Snapshot(np.zeros(0), np.zeros(0), (of_time * np.ones((4, 3, 2)),)) for of_time in label]
    (merged,) = module._merged(drawn, chosen, networks, times)
    assert merged.shape == (networks, 3 * times, 2)
    sources = [np.unique(neurons) for neurons in merged]
    assert all(len(source) == times and len(set(source % 10)) == 1 for source in sources)
    assert len(np.unique(np.concatenate(sources))) == networks * times
    assert {source[0] % 10 for source in sources} == set(chosen)


def test_pilots_on_different_solutions_are_noticed():
    problem = module.Task.checked(*data(2)[:2], None, 2, 1.0, 8.0, "relu", 1.0).problem
    for shift, expected in ((0.0, False), (0.1 * (np.arange(8) < 2), True), (0.02 * (np.arange(8) < 2), False)):
        assert agreement.apart([agreement.table(problem.Y, snapshot) for snapshot in history(shift)]) is expected


def test_extrapolation_removes_what_falls_like_the_inverse_width():
    limit, slope = np.arange(4.0).reshape(2, 2), np.array([[3.0, -1.0], [2.0, 0.5]])
    widths = (512, 128)
    runs = [types.SimpleNamespace(nets=types.SimpleNamespace(width=width)) for width in widths]
    values = [limit + slope / width for width in widths]
    np.testing.assert_allclose(module._extrapolated(runs, values), limit, atol=1e-14)
    np.testing.assert_array_equal(module._extrapolated(runs[:1], values[:1]), values[0])


def test_the_pilots_with_most_company_are_followed():
    kernels = np.eye(2) * (1 + np.array([0.0, 0.5, 0.02, 0.05]))[:, None, None, None]
    assert module._alike(kernels) == [2, 0]


def posed(points, depth, homogeneous=True):
    return types.SimpleNamespace(C=range(points), depth=depth, laws=[types.SimpleNamespace(homogeneous=homogeneous)])


def test_population_follows_points_and_errors_asked_for():
    widths = [population_for(posed(points, 1), 0.01) for points in (3, 50, 100, 200)]
    assert widths == [(8, 768), (8, 768), (8, 1280), (4, 1280)]
    assert population_for(posed(200, 1, homogeneous=False), 0.01) == (8, 2432)
    assert [population_for(posed(50, 1), tol)[1] for tol in (0.007, 0.0035, 1e-5)] == [768, 1536, 6144]
    widths = [population_for(posed(points, 2), 1e-3) for points in (3, 50, 100, 200)]
    assert widths == [(8, 512), (8, 512), (8, 512), (8, 896)]
    assert population_for(posed(50, 1), 0.01, 520) == (8, 96)
    assert population_for(posed(200, 1), 0.01, 512) == (4, 128)
