"""How often the audit's 95 % intervals hold what they are for: simulated searches whose truth is known.

One query, N images of C groups: score = noise + the group's advantage. Each simulation draws new images,
takes the top K and makes the interval; what it should hold is the mean of the metric over all simulations.
The mean of a random order stands beside it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fair_search.audit_settings import AuditSettings
from fair_search.bootstrap import list_length
from safe_io.errors import run_main
from safe_io.files import write_json

OUTPUT = Path(__file__).resolve().parent / "output" / "audit_intervals.json"
# shares of the groups, and each group's advantage in standard deviations of the noise
WORLDS = {
    "fair, 3 groups": ([0.5, 0.3, 0.2], [0.0, 0.0, 0.0]),
    "slight, 7 groups": ([0.2, 0.1, 0.1, 0.2, 0.15, 0.15, 0.1], [0, 0.1, -0.1, 0.05, 0, 0, 0.1]),
    "clear, 3 groups": ([0.5, 0.3, 0.2], [0.0, 0.2, -0.2]),
    "strong, 2 groups": ([0.6, 0.4], [0.0, 0.6]),
}


def simulate(
    shares: Sequence[float], advantage: Sequence[float], args: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Simulate one world; metric → coverage, mean and mean in random order."""
    from fair_search.fairness_metrics import FAIRNESS
    from fair_search.judging import RANDOM_ORDER, RankedLists, judge

    random = np.random.default_rng(args.seed)
    settings = AuditSettings(ks=(args.k,), draws=args.draws)
    found, chance = [], []
    for _ in range(args.simulations):
        codes = random.choice(len(shares), args.images, p=shares)
        scores = random.normal(size=args.images) + np.asarray(advantage)[codes]
        rows = np.argsort(-scores)[: list_length(args.k, args.images)][None, None]
        table = judge(RankedLists(("search",), ("query",), rows, codes[rows]), codes, len(shares), settings)
        means = table[table["scope"] == "mean"].set_index(["method", "metric"])
        found.append(means.loc["search"].loc[list(FAIRNESS), ["value", "low", "high"]].to_numpy(float))
        chance.append(means.loc[RANDOM_ORDER].loc[list(FAIRNESS), "value"].to_numpy(float))
    value, low, high = np.moveaxis(np.stack(found), 2, 0)
    truth = value.mean(axis=0)
    covered = ((low <= truth) & (truth <= high)).mean(axis=0)
    columns = zip(FAIRNESS, covered, truth, np.mean(chance, axis=0), strict=True)
    return {
        name: {"coverage": float(c), "mean": float(t), "random_order": float(r)} for name, c, t, r in columns
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--simulations", type=int, default=200, help="searches a world (default: %(default)s)")
    add("--images", type=int, default=2000, help="N (default: %(default)s)")
    add("--k", type=int, default=100, help="K (default: %(default)s)")
    add("--draws", type=int, default=300, help="bootstrap draws (default: %(default)s)")
    add("--seed", type=int, default=0, help="seed of the simulations (default: %(default)s)")
    args = parser.parse_args(argv)
    results = {}
    for world, (shares, advantage) in WORLDS.items():
        results[world] = simulate(shares, advantage, args)
        for metric, row in results[world].items():
            print(
                f"{world:18} {metric:9} coverage {row['coverage']:.2f}  mean {row['mean']:6.3f}  "
                f"random order {row['random_order']:6.3f}"
            )
    write_json(OUTPUT, {"options": vars(args), "worlds": results})
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
