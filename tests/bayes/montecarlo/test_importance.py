"""When proposals give up."""

import types
from dataclasses import replace

import numpy as np
import pytest

from linkern.bayes.montecarlo import importance
from linkern.bayes.montecarlo.task import Task


def three_points(gamma0):
    rng = np.random.default_rng(5)
    return Task.checked(rng.standard_normal((3, 4)), rng.standard_normal(3), None, 1, gamma0, 8.0, "relu", 1.0)


@pytest.mark.parametrize(("shares", "steps"), [([0.9, 0.7, 0.5, 0.4, 0.35], 5), ([0.9, 0.75, 0.45], 3), ([0.3, 0.6, 0.19], 3)])
def test_proposals_that_will_run_out_of_samples_are_left_early(shares, steps, monkeypatch):
    """Four steps up; the second ladder would leave 0.16 of its samples effective, the third has left less than a fifth."""
    task, taken = three_points(1.0), []

    def rung(self, gamma0, temperature):
        taken.append(gamma0)
        self.path.append(types.SimpleNamespace(effective=shares[len(taken) - 1]))

    monkeypatch.setattr(importance.Proposals, "rung", rung)
    problem = replace(task.problem, gamma0=0.25, temperature=1.0)
    proposals = importance.Proposals(problem, task.start, 8, np.random.default_rng(0), None, patient=False)
    if steps == 5:
        proposals.climb(1.2, 1.0)
    else:
        with pytest.raises(importance.OutOfReachError):
            proposals.climb(1.2, 1.0)
    assert len(taken) == steps


@pytest.mark.parametrize("patient", [True, False])
def test_equations_without_a_solution_get_more_samples_from_the_patient(patient, monkeypatch):
    """Samples below 20000 leave a residual of 0.3."""
    task, taken, solve_on = three_points(0.5), [], importance.solve_on

    def noisy(problem, layers, *args, **kwargs):
        found = solve_on(problem, layers, *args, **kwargs)
        taken.append(len(layers[0].eps))
        return replace(found, residual=0.3) if taken[-1] < 20000 else found

    monkeypatch.setattr(importance, "solve_on", noisy)
    proposals = importance.Proposals(task.problem, task.start, 8, np.random.default_rng(0), None, patient=patient)
    if patient:
        monkeypatch.setattr(importance, "_FALLS", 1.0)
        proposals.rung(0.5, 1 / 8)
        assert proposals.samples == 32768
        assert proposals.path[-1].residual < 0.01
    else:
        with pytest.raises(importance.OutOfReachError):
            proposals.rung(0.5, 1 / 8)
        assert max(taken) < 16384
