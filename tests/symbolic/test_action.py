"""The layer calculus against plain differentiation of the action written out for a few layers."""

import pytest
import sympy as sp

from linkern.symbolic import (
    Action,
    Layered,
    NotSolvableError,
    SaddlePoint,
    depth,
    find_invariants,
    layer,
    reduce_to_scalar,
)

c, c_hat = Layered("c", start=1), Layered("c_hat", positive=False)
gamma0, T = sp.symbols("gamma0 T", positive=True)
l, L = layer, depth
chain = Action(
    bulk=(-c[l] * c_hat[l] + sp.log(1 + c[l - 1] * c_hat[l])) / 2,
    readout=gamma0**2 / (2 * (c[L] + T)),
    order_parameters=(c,),
    conjugates=(c_hat,),
)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_stationarity_equals_differentiation_of_the_written_out_action(count):
    written = chain.at_depth(count)
    for q in (c, c_hat):
        for index in range(1, count + 1):
            last = index == count
            symbolic = chain.stationarity(q, last=last).subs(L if last else l, index).subs(c.base[0], 1)
            assert sp.simplify(sp.diff(written, q[index]) - symbolic) == 0


def test_action_prints_a_symbolic_sum_and_lists_its_parameters():
    assert chain.expression.has(sp.Sum)
    assert chain.parameters == (T, gamma0)
    assert chain.layer_parameters == ()


def test_two_uncoupled_chains_have_two_invariants():
    d, d_hat = Layered("d", start=1), Layered("d_hat", positive=False)
    both = Action(
        bulk=chain.bulk + chain.bulk.subs({c[l]: d[l], c_hat[l]: d_hat[l], c[l - 1]: d[l - 1]}),
        readout=chain.readout + gamma0**2 / (d[L] + T),
        order_parameters=(c, d),
        conjugates=(c_hat, d_hat),
    )
    found = find_invariants(SaddlePoint(both))
    assert set(found) == {c[l] * c_hat[l], d[l] * d_hat[l]}


@pytest.mark.parametrize("extra", [c_hat[l] ** 2, c[l] ** 2])
def test_a_chain_without_conserved_polynomial_yields_none(extra):
    # A quadratic cost per layer breaks the scale symmetry behind the conservation law.
    broken = Action(chain.bulk - extra / 2, chain.readout, (c,), (c_hat,))
    assert find_invariants(SaddlePoint(broken), degree=3) == ()


def test_growth_that_depends_on_the_order_parameter_is_refused():
    with pytest.raises(NotSolvableError, match="product over layers"):
        reduce_to_scalar(SaddlePoint(chain), c[l] ** 2 * c_hat[l], -sp.Symbol("a", positive=True))


@pytest.mark.parametrize(
    ("bulk", "readout", "message"),
    [
        (c[l + 1] * c_hat[l], c[L], "bulk: c may appear at layers l and l-1"),
        (c[2 * l] * c_hat[l], c[L], "expected a layer l"),
        (c[l] * c_hat[l], c[l], "readout: expected c at layer L only"),
    ],
)
def test_actions_that_are_not_chains_are_refused(bulk, readout, message):
    with pytest.raises(ValueError, match=message):
        Action(bulk, readout, (c,), (c_hat,))


def test_unpaired_conjugates_are_refused():
    with pytest.raises(ValueError, match="conjugates: expected one per order parameter"):
        Action(chain.bulk, chain.readout, (c,), ())
