"""Snapshots joined group by group, one after the other or all at once, and their later half."""

import numpy as np

from linkern.bayes.montecarlo.samples import SampledLayer

GROUPS, MEMBERS = 3, 2


def snapshot(time):
    """Coordinates and densities that say which particle, group and time they are of."""
    group = np.repeat(np.arange(GROUPS), MEMBERS)
    member = np.tile(np.arange(MEMBERS), GROUPS)
    eps = np.stack([group, member, np.full(GROUPS * MEMBERS, time)], axis=1).astype(np.float32)
    return SampledLayer(eps, np.square(eps).sum(axis=1), 100.0 * group + 10 * member + time)


def table(layer):
    return layer.eps.reshape(GROUPS, layer.snapshots, MEMBERS, 3)


def test_snapshots_of_a_group_stand_together_in_order_of_time():
    layer = SampledLayer.joined([snapshot(time) for time in range(5)], GROUPS)
    assert (layer.groups, layer.snapshots) == (GROUPS, 5)
    np.testing.assert_array_equal(table(layer)[1, :, 0, 0], 1)
    np.testing.assert_array_equal(table(layer)[:, :, 1, 1], 1)
    np.testing.assert_array_equal(table(layer)[2, :, 0, 2], np.arange(5))
    np.testing.assert_array_equal(layer.reference, 100 * layer.eps[:, 0] + 10 * layer.eps[:, 1] + layer.eps[:, 2])


def test_joined_snapshots_take_more():
    parts = [snapshot(time) for time in range(5)]
    at_once = SampledLayer.joined(parts, GROUPS)
    in_turn = SampledLayer.joined([SampledLayer.joined(parts[:3], GROUPS), *parts[3:]], GROUPS)
    assert in_turn.snapshots == 5
    for name in ("eps", "squared", "reference"):
        np.testing.assert_array_equal(getattr(in_turn, name), getattr(at_once, name))


def test_later_half_keeps_its_order():
    parts = [snapshot(time) for time in range(5)]
    late, expected = SampledLayer.joined(parts, GROUPS).late(), SampledLayer.joined(parts[2:], GROUPS)
    assert late.snapshots == 3
    for name in ("eps", "squared", "reference"):
        np.testing.assert_array_equal(getattr(late, name), getattr(expected, name))
