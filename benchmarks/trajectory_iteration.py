"""Plain baseline: deep linear mean-field equations as a fixed point over whole trajectories, on (T P) x (T P) matrices.

One damping-free iteration computes all fields from the kernels and errors of the one before, as the published solvers do.
Because the equations are causal, iteration n is exact up to a time that grows with n.
"""

from __future__ import annotations

import numpy as np

__all__ = ["iterate_trajectories"]


def iterate_trajectories(C, y, *, depth, gamma0, steps, weight_decay=0.0, iterations=30):
    """Return f (T, P), Phi^1..Phi^L (T P, T P) and G^1..G^L (T, T) after so many iterations, and the last change of f."""
    T, P = len(steps) + 1, len(y)
    R = np.concatenate([[1.0], np.cumprod(1 - np.asarray(steps) * weight_decay)])
    mem = np.array([[gamma0 * steps[s] * R[t] / R[s + 1] if s < t else 0.0 for s in range(T)] for t in range(T)])
    ones = np.ones((T, T))
    Phi = [np.kron(ones, C) for _ in range(depth + 1)]
    G = [ones for _ in range(depth + 2)]
    A = [np.zeros((T * P, T)) for _ in range(depth + 1)]  # dh^l/dr^l, A^0 = 0
    B = [np.zeros((T, T * P)) for _ in range(depth + 1)]  # dg^{l+1}/du^{l+1}, B^L = 0
    Delta = np.tile(y, (T, 1))
    Ru, Rr = np.diag(np.repeat(R, P)), np.diag(R)
    f = np.zeros((T, P))
    change = np.inf
    for _ in range(iterations):
        pick = np.zeros((T, T * P))  # row s holds Delta(s) in the columns of time s
        for s in range(T):
            pick[s, s * P : (s + 1) * P] = Delta[s]
        wide = np.repeat(mem, P, axis=0)
        new_Phi, new_G, new_A, new_B = [Phi[0]], [None], [A[0]], [None] * (depth + 1)
        new_B[depth] = B[depth]
        for l in range(1, depth + 1):
            Cl = Ru @ A[l - 1] + wide * (Phi[l - 1] @ pick.T)
            Dl = Rr @ B[l] + (mem * G[l + 1]) @ pick
            # SciPy's triangular solver would be less work, but its threads beside NumPy's make an iteration 20 times slower.
            inverse = np.linalg.inv(np.eye(T) - Dl @ Cl)
            g_r, g_u = inverse @ Rr, inverse @ Dl @ Ru
            h_r, h_u = Cl @ g_r, Ru + Cl @ g_u
            new_Phi.append(h_u @ Phi[l - 1] @ h_u.T + h_r @ G[l + 1] @ h_r.T)
            new_G.append(g_u @ Phi[l - 1] @ g_u.T + g_r @ G[l + 1] @ g_r.T)
            new_A.append(h_r)
            new_B[l - 1] = g_u
            if l == depth:
                joint = g_u @ Phi[l - 1] @ h_u.T + g_r @ G[l + 1] @ h_r.T
                new_f = np.array([joint[t, t * P : (t + 1) * P] for t in range(T)]) / gamma0
        Phi, G, A, B = new_Phi, [*new_G, ones], new_A, new_B
        change = float(np.abs(new_f - f).max())
        f, Delta = new_f, y - new_f
    return f, Phi[1:], G[1:-1], change
