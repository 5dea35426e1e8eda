"""Merging one weight by its definition, in numpy float64 with loops and sorts."""

import itertools

import numpy as np


def plain_merge(method, base, parents, w, *, normalise=True, density=1.0, factors=None):
    """Merges arrays; `factors` are what DARE or DELLA multiply the task vectors by."""
    base, w = np.asarray(base, np.float64), np.asarray(w, np.float64)
    parents = [np.asarray(parent, np.float64) for parent in parents]
    used = [p for p in range(len(w)) if w[p] != 0]
    if method == "slerp":
        return plain_slerp([parents[p] for p in used], w[used]) if used else base
    taus = [parents[p] - base for p in used]
    if method == "model_stock":
        return plain_stock(base, taus, w[used])
    if method == "ties":
        taus = [plain_trim(tau, density) for tau in taus]
    elif factors is not None:
        taus = [tau * factors[p] for p, tau in zip(used, taus, strict=True)]
    merged = np.zeros(base.size)
    for entry in range(base.size):
        moves = [(w[p], w[p] * tau.flat[entry]) for p, tau in zip(used, taus, strict=True)]
        if method in ("ties", "dare_ties", "della"):
            sign = 1 if sum(move for _, move in moves) >= 0 else -1
            moves = [(c, move) for c, move in moves if move * sign > 0]
        total = sum(c for c, _ in moves) if normalise else 1
        merged[entry] = sum(move for _, move in moves) / total if total else 0
    return base + merged.reshape(base.shape)


def plain_trim(tau, density):
    kept = max(1, int(density * tau.size))
    smallest = np.sort(np.abs(tau), axis=None)[-kept]
    return np.where(np.abs(tau) >= smallest, tau, 0)


def plain_slerp(parents, w):
    merged, total = parents[0], w[0]
    for parent, c in zip(parents[1:], w[1:], strict=True):
        total += c
        t = c / total
        cosine = (merged * parent).sum() / (np.linalg.norm(merged) * np.linalg.norm(parent))
        if abs(cosine) > 0.9995:
            merged = (1 - t) * merged + t * parent
        else:
            angle = np.arccos(cosine)
            merged = (np.sin((1 - t) * angle) * merged + np.sin(t * angle) * parent) / np.sin(angle)
    return merged


def plain_stock(base, taus, w):
    if len(taus) == 0 or w.sum() == 0:
        return base
    n = len(taus)
    cosines = [
        (a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b))
        for a, b in itertools.combinations(taus, 2)
    ]
    cosine = np.mean(cosines) if cosines else 1.0
    t = n * cosine / (1 + (n - 1) * cosine)
    return base + t * sum(c * tau for c, tau in zip(w, taus, strict=True)) / w.sum()
