"""Write linear.npz, the 50-digit solutions of `problems.all_problems()`: `PYTHONPATH=tests python -m reference.make_linear`.

Each number is stored as the sum of two doubles (about 32 digits). Inputs are stored as well, as a guard against
platforms whose elementary functions differ in the last bit.
"""

from __future__ import annotations

from pathlib import Path

import mpmath as mp
import numpy as np

from reference.exact import DIGITS, ExactSaddle
from reference.problems import all_problems

TARGET = Path(__file__).with_name("linear.npz")


def split(value: mp.mpf) -> tuple[float, float]:
    """Return value as high + low."""
    high = float(value)
    return high, float(value - mp.mpf(high))


def main() -> None:
    problems = all_problems()
    owner, log_rescaling, action = [], [], []
    for number, problem in enumerate(problems):
        with mp.workdps(DIGITS):
            saddle = ExactSaddle(problem)
            for x in saddle.roots():
                owner.append(number)
                log_rescaling.append(split(x))
                action.append(split(saddle.action(x)))
        if number % 100 == 0:
            print(f"{number} of {len(problems)}", flush=True)
    np.savez_compressed(
        TARGET,
        owner=np.array(owner, dtype=np.int32),
        log_rescaling=np.array(log_rescaling),
        action=np.array(action),
        gamma0=np.array([problem.gamma0 for problem in problems]),
        beta=np.array([problem.beta for problem in problems]),
        modes=np.array([len(problem.eigenvalues) for problem in problems], dtype=np.int32),
        depth=np.array([problem.depth for problem in problems], dtype=np.int32),
        eigenvalues=np.concatenate([problem.eigenvalues for problem in problems]),
        coefficients=np.concatenate([problem.coefficients for problem in problems]),
        widths=np.concatenate([p.widths for p in problems if set(p.widths) != {1.0}]),
    )
    print(f"{TARGET}: {len(problems)} problems, {len(owner)} solutions, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
