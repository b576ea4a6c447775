"""What samples say of a model: pass@k, how sure that is, whether two runs differ by more than chance. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the chance that one of k answers passes, unbiased, from n answers of which c pass: 1 - C(n-c, k) / C(n, k).

    The estimator of "Evaluating Large Language Models Trained on Code". Raises ValueError where k is more than n.
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs {k} answers at least, and there are {n}, of which {c} pass")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def mean_pass_at_k(counts: Sequence[tuple[int, int]], k: int) -> float:
    """Return the mean of pass@k over problems, each (n, c)."""
    return math.fsum(pass_at_k(n, c, k) for n, c in counts) / len(counts)


def interval(shares: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return bounds of a rate, from the share of each problem that passes.

    Problems are drawn, not answers: those of one problem stand or fall together. So it is Wilson's interval, which stays within 0
    and 1 and is no point at either end, for as many trials as the problems' variance is worth.
    """
    if not shares:
        return 0.0, 1.0
    n = len(shares)
    rate = math.fsum(shares) / n
    spread = math.fsum((share - rate) ** 2 for share in shares) / n
    return wilson(rate, max(n, n * rate * (1 - rate) / spread) if spread > 0 else n, confidence)


def wilson(rate: float, trials: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's bounds of a rate seen in so many independent trials."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    middle = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    return max(0.0, middle - half), min(1.0, middle + half)


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the chance of so uneven a split, or a more uneven one, were neither run better: McNemar's exact test, two-sided.

    `only_a` cases pass in one run alone, `only_b` in the other alone; those on which they agree say nothing.
    """
    n = only_a + only_b
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(min(only_a, only_b) + 1)) / 2**n) if n else 1.0


def sign_flips(differences: Sequence[float], draws: int = 20_000) -> float:
    """Return the two-sided chance of so large a sum of paired differences, were each as likely the other way round.

    A permutation test: exact where the signs can all be tried, otherwise from so many draws, the same each time.
    """
    from random import Random  # noqa: PLC0415  only here

    moving = [difference for difference in differences if difference]
    least = abs(math.fsum(moving)) - 1e-12
    if 2 ** len(moving) <= draws:
        sums = [0.0]
        for difference in moving:
            sums = [total + sign for total in sums for sign in (difference, -difference)]
        return sum(abs(total) >= least for total in sums) / len(sums)
    rng = Random(0)  # noqa: S311  no secret
    hits = sum(abs(math.fsum(d if rng.random() < 0.5 else -d for d in moving)) >= least for _ in range(draws))
    return (hits + 1) / (draws + 1)
