"""How long fair re-ranking takes: 25 queries × 10 folds × K 500 of FairFace's size, all algorithms.

Scores are random. Times are the processor's, so that other work on the machine does not count. The choice of
the candidates (the best K of each class) and the re-ranking are timed apart.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

if __package__ in (None, ""):  # run by path: make the project importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from debiasing_methods.reranking import ALGORITHMS, candidates, exact_shares, rerank, uniform_shares

QUERIES, FOLDS, K, IMAGES, CLASSES = 25, 10, 500, 48_849, 7


def main() -> None:
    """Print processor seconds of each part."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    random = np.random.default_rng(0)
    labels = random.choice(CLASSES, IMAGES, p=[0.14, 0.14, 0.14, 0.15, 0.11, 0.13, 0.19])
    scores = random.random((FOLDS, QUERIES, IMAGES), dtype=np.float32)
    start = time.process_time()
    orders = [candidates(of_fold, labels, K) for of_fold in scores]
    print(f"candidates: {time.process_time() - start:.2f} s")
    for algorithm in ALGORITHMS:
        seconds = 0.0
        for fold, order in enumerate(orders):  # shares differ from fold to fold, as the folds' images do
            counts = np.bincount(labels[fold:], minlength=CLASSES).tolist()
            start = time.process_time()
            shares = uniform_shares(CLASSES) if algorithm == "pbm" else exact_shares(counts)
            rerank(order, labels, shares, K, algorithm)
            seconds += time.process_time() - start
        print(f"{algorithm}: {seconds:.2f} s")


if __name__ == "__main__":
    main()
