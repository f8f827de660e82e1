"""The command line: what it prints, what it writes, and how it fails."""

import json
import sys

import numpy as np
import pytest

import linkern.derivations
from linkern.bayes import solve_linear, solve_quadrature
from linkern.cli import main
from linkern.solution import load_npz
from linkern.symbolic import Kind, claim, vanishes


def test_verify_prints_the_table_and_writes_tex(tmp_path, capsys):
    assert main(["verify", "whitened", "--tex", str(tmp_path / "out" / "claims.tex")]) == 0
    printed = capsys.readouterr().out
    assert "exponential_depth_law" in printed
    assert "0 FAILED" in printed
    assert r"\section{whitened}" in (tmp_path / "out" / "claims.tex").read_text(encoding="utf-8")


def test_verify_exits_1_when_a_claim_fails(monkeypatch, capsys):
    @claim("1 = 2", Kind.IDENTITY, "a test")
    def wrong():
        yield vanishes("difference", 1)

    wrong.check(lambda rng: iter([(1, 2)]))
    monkeypatch.setattr(linkern.derivations, "all_claims", lambda: (("tests", wrong),))
    assert main(["verify"]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_figures_write_pictures_and_numbers_and_use_the_cache(tmp_path, capsys):
    arguments = ["figures", "overlap_scaling", "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert sorted(p.name for p in tmp_path.glob("*.*")) == [f"overlap_scaling.{s}" for s in ("json", "pdf", "png")]
    record = json.loads((tmp_path / "overlap_scaling.json").read_text(encoding="utf-8"))
    # The fitted exponent approaches 2L/(L+1); at depth 1 it has arrived.
    assert record["numbers"]["rich_exponent_fitted"][0] == pytest.approx(1.0, abs=2e-3)
    cached = list((tmp_path / "cache").iterdir())
    modified = cached[0].stat().st_mtime_ns
    assert main(arguments) == 0
    assert [p.stat().st_mtime_ns for p in (tmp_path / "cache").iterdir()] == [modified]
    assert "3 files" in capsys.readouterr().out


def test_solve_on_digits(capsys):
    pytest.importorskip("sklearn")
    assert main(["solve", "--samples", "40", "--depth", "2"]) == 0
    printed = capsys.readouterr().out
    assert "test error" in printed
    assert "residual" in printed


def test_solve_on_a_file_saves_a_readable_solution(tmp_path):
    rng = np.random.default_rng(3)
    np.savez(tmp_path / "data.npz", X=rng.standard_normal((12, 5)), y=rng.standard_normal(12))
    saved = tmp_path / "solution.npz"
    assert main(["solve", "--data", str(tmp_path / "data.npz"), "--save", str(saved)]) == 0
    arrays, record = load_npz(saved)
    assert record["depth"] == 3
    assert arrays["overlaps"].shape == (4,)


def test_test_errors_know_shapes_and_outputs(tmp_path, capsys):
    rng = np.random.default_rng(3)
    X, Y = rng.standard_normal((6, 3)), rng.standard_normal((6, 2))
    files = {"one": (Y[:, 0], Y[:, :1]), "two": (Y, Y), "short": (Y[:, 0], Y[:2, 0])}
    for name, (y, y_test) in files.items():
        np.savez(tmp_path / name, X=X, y=y, X_test=X, y_test=y_test)
    for name, y in (("one", Y[:, 0]), ("two", Y)):
        assert main(["solve", "--data", str(tmp_path / f"{name}.npz"), "--depth", "1"]) == 0
        f = solve_linear(X, y, depth=1, gamma0=1.0, beta=50.0).predict(X)
        assert f"(mean square over 6 points): {np.sum((f - y) ** 2) / 6:.6g}" in capsys.readouterr().out
    assert main(["solve", "--data", str(tmp_path / "short.npz"), "--depth", "1"]) == 2
    assert "y_test: expected shape (6,)" in capsys.readouterr().err


def test_solve_samples_nonlinear_networks(tmp_path, capsys):
    rng = np.random.default_rng(3)
    X, X_test = rng.standard_normal((2, 5, 2))
    data = {"X": X, "y": X[:, 0], "X_test": X_test, "y_test": X_test[:, 0]}
    np.savez(tmp_path / "data.npz", **data)
    saved = str(tmp_path / "solution.npz")
    options = ["--activation", "relu", "--depth", "1", "--tol", "0.02", "--save", saved]
    assert main(["solve", "--data", str(tmp_path / "data.npz"), *options]) == 0
    printed = capsys.readouterr().out
    arrays, record = load_npz(saved)
    assert record["status"] == "CONVERGED"
    assert record["activation"] == "relu"
    truth = solve_quadrature(X, X[:, 0], depth=1, gamma0=1.0, beta=50.0, activation="relu", tol=1e-6)
    exact = truth.overlaps().value[1], truth.test_error(X_test, X_test[:, 0]).value
    shown = [printed.split(after)[1].split()[:3:2] for after in ("\n    1", "over 5 points): ")]
    for (value, error), expected in zip(shown, exact, strict=True):
        assert abs(float(value) - expected) < 5 * float(error)
        assert float(error) < 0.02 * expected
    assert arrays["kernels"][1] == pytest.approx(truth.kernels[1], abs=0.05 * np.linalg.norm(truth.kernels[1]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "no_such_claim"], "names: expected chapters or claims"),
        (["figures", "no_such_figure"], "names: expected figures among"),
        (["solve", "--data", "missing.npz"], "missing.npz"),
        (["solve", "--samples", "20", "--depth", "0"], "depth: expected an integer >= 1"),
        (["solve", "--samples", "20", "--beta", "-1"], "beta: expected"),
        (["solve", "--samples", "20", "--activation", "tanh", "--beta", "inf"], "beta: expected a finite number > 0, got inf"),
        (["solve", "--samples", "20", "--activation", "tan"], "activation: expected one of linear, relu"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_numeric_half_needs_neither_sympy_nor_matplotlib():
    import subprocess

    code = (
        "import sys, linkern, linkern.bayes, linkern.networks, linkern.lazy, linkern.data, linkern.conventions, linkern.cli\n"
        "assert not {'sympy', 'matplotlib', 'sklearn'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_checkout_works_without_installation():
    import subprocess
    from pathlib import Path

    code = "import linkern.derivations, linkern.figures; print(linkern.derivations.__file__)"
    # -S leaves out site-packages and with it the installed finder; the dependencies are handed over by path.
    path = [entry for entry in sys.path if "site-packages" in entry]
    run = f"import sys; sys.path[:0] = [{str(Path(__file__).parents[1])!r}]; sys.path += {path!r}; {code}"
    printed = subprocess.run([sys.executable, "-S", "-c", run], check=True, capture_output=True, text=True).stdout
    assert Path(printed.strip()) == Path(__file__).parents[1] / "derivations" / "__init__.py"
