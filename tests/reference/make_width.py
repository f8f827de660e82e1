"""Write width.json: evidence, gains and moments of Q at 30 digits, by mpmath alone.

One layer: the closed density of ln Q. Two: a Bessel function. Three: the convolution of the two on a lattice. The outer
integral is a trapezoidal rule on a lattice, marched outwards until the integrand has fallen by e^-80; rules with two steps
must agree. linkern is not imported. Run: python tests/reference/make_width.py (about five minutes).
"""

import json
import random
from pathlib import Path

import mpmath as mp
from mpmath import mpf

mp.mp.dps = 40
DROP = 80


def log_prior(widths):
    """ln p(t) for one or two layers."""
    n = [mpf(w) / 2 for w in widths]
    constant = -mp.fsum(mp.loggamma(a) for a in n)
    if len(n) == 1:
        return lambda t: constant + n[0] * mp.log(n[0]) + n[0] * (t - mp.exp(t))

    def density(t):
        z = n[0] * n[1] * mp.exp(t)
        bessel = mp.besselk(n[0] - n[1], 2 * mp.sqrt(z))
        return constant + mp.log(2) + (n[0] + n[1]) / 2 * mp.log(z) + mp.log(bessel)

    return density


def lattice_prior(widths, step):
    """ln p at lattice points k * step, memoised; three layers by convolution."""
    memory = {}
    if len(widths) <= 2:
        density = log_prior(widths)

        def at(k):
            if k not in memory:
                memory[k] = density(k * step)
            return memory[k]

        return at
    pair, single = lattice_prior(widths[:2], step), lattice_prior(widths[2:], step)

    def convolved(k):
        if k not in memory:
            # The maximum over the split is unique (both are log-concave): climb to it, then march both ways.
            j, value = 0, single(0) + pair(k)
            for jump in (4096, 512, 64, 8, 1):
                for direction in (jump, -jump):
                    while (new := single(j + direction) + pair(k - j - direction)) > value:
                        j, value = j + direction, new
            total, start = mpf(1), j
            for direction in (1, -1):
                j = start + direction
                while (new := single(j) + pair(k - j) - value) > -DROP:
                    total += mp.exp(new)
                    j += direction
            memory[k] = value + mp.log(total * step)
        return memory[k]

    return convolved


def reference(case):
    """ln Z, gains, <Q>, <ln Q> at two steps."""
    widths, lam, b = case["widths"], [mpf(v) for v in case["eigenvalues"]], [mpf(v) for v in case["coefficients"]]
    g, kappa = mpf(1) / mpf(case["chi"]), mpf(case["ridge"])

    def likelihood(t):
        A = [g * mp.exp(t) * v + kappa for v in lam]
        return -mp.fsum(mp.log(a) + c**2 / a for a, c in zip(A, b, strict=True)) / 2

    smooth = log_prior(widths[:2]) if len(widths) < 3 else None

    def crude(t):
        """The log posterior on which the global scan runs; for three layers the first two's rate stands in for all."""
        if smooth is not None:
            return smooth(t) + likelihood(t)
        return log_prior(widths[:2])(t * 2 / 3) + log_prior(widths[2:])(t / 3) + likelihood(t)

    scan = [(crude(mpf(k) / 4), mpf(k) / 4) for k in range(-240, 81)]
    top, peak = max(scan)
    # Refine the peak and measure its width with a finite difference.
    for width in (mpf(1) / 16, mpf(1) / 128, mpf(1) / 1024, mpf(1) / 8192):
        top, peak = max((crude(peak + k * width), peak + k * width) for k in range(-8, 9))
    small = mpf(10) ** -8
    curvature = -(crude(peak + small) - 2 * top + crude(peak - small)) / small**2
    step = min(mpf("0.1"), mpf("0.28") / mp.sqrt(max(curvature, 1)))
    ends = [t for value, t in scan if value > top - DROP] + [peak]
    prior = lattice_prior(widths, step)
    nodes = {}
    for direction in (1, -1):
        k = int(mp.nint((max if direction > 0 else min)(ends) / step))
        k_start = int(mp.nint((min if direction > 0 else max)(ends) / step))
        for j in range(k_start, k + direction, direction):
            nodes.setdefault(j, prior(j) + likelihood(j * step))
        best = max(nodes.values())
        while nodes.setdefault(k, prior(k) + likelihood(k * step)) > best - DROP:
            k += direction
    top = max(nodes.values())
    weights = {k: mp.exp(v - top) for k, v in nodes.items()}

    def rule(stride):
        kept = {k: w for k, w in weights.items() if k % stride == 0}
        total = mp.fsum(kept.values())
        gains = []
        for v in lam:
            gains.append(mp.fsum(w / (1 + kappa / (g * mp.exp(k * step) * v)) for k, w in kept.items()) / total)
        mean_q = mp.fsum(w * mp.exp(k * step) for k, w in kept.items()) / total
        mean_t = mp.fsum(w * k * step for k, w in kept.items()) / total
        return [mp.log(total * step * stride) + top - len(lam) * mp.log(2 * mp.pi) / 2, mean_q, mean_t, *gains]

    return rule(1), rule(2)


def cases(seed=7):
    """Random problems over the whole range, the extremes first."""
    rng = random.Random(seed)
    shapes = [[1], [1000000], [1, 1], [1000000, 1000000], [1, 1, 1], [1000, 1000, 1000], [3, 70], [2, 5, 9], [40, 40, 40]]
    shapes += [[round(10 ** rng.uniform(0, 4))] * rng.choice([1, 1, 2, 2, 3]) for _ in range(24)]
    shapes += [[round(10 ** rng.uniform(0, 2)) for _ in range(2)] for _ in range(5)]
    for index, widths in enumerate(shapes):
        size = rng.choice([1, 3, 8, 20])
        chi = rng.choice([1.0, float(widths[-1]), 10 ** rng.uniform(0, 4)])
        ridge = rng.choice([1e-10, 10 ** rng.uniform(-9, 0)]) / (chi if rng.random() < 0.7 else 1.0)
        lam = [10 ** rng.uniform(-2, 1) for _ in range(size)]
        amplitude = rng.choice([0.0, 1.0, 1.0, 1.0]) if index % 4 else 1.0
        b = [amplitude * rng.gauss(0, 1) * (v + 0.1) ** 0.5 for v in lam]
        yield {"widths": widths, "chi": chi, "ridge": ridge, "eigenvalues": lam, "coefficients": b}


def main():
    """Compute all cases; stop if two steps disagree."""
    found = []
    for case in cases():
        fine, coarse = reference(case)
        worst = max(abs(a - c) / abs(a) for a, c in zip(fine, coarse, strict=True))
        print(
            case["widths"],
            f"chi={case['chi']:.3g} ridge={case['ridge']:.3g} P={len(case['eigenvalues'])}",
            mp.nstr(worst, 3),
            flush=True,
        )
        # The error of the finer rule is about the square of this difference.
        assert worst < mpf(10) ** -14, case
        log_evidence, mean_q, mean_t, *gains = (mp.nstr(value, 30) for value in fine)
        found.append({**case, "log_evidence": log_evidence, "mean_q": mean_q, "mean_log_q": mean_t, "gains": gains})
    Path(__file__).with_name("width.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
