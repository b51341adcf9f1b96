"""Seconds of adding new images to a clustered set, beside a fresh clustering of all of them, taken in turns:
figures/results/growing.json.

    python tools/growing.py --images 12936 --new 100 1000
"""

import argparse
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tools')]
from neighbours import DIMENSIONS, K1, clock, people

RESULTS = ROOT / 'figures' / 'results' / 'growing.json'


def measure(n: int, new: int, rounds: int) -> dict:
    "The least seconds of some rounds each, and whether all labels are the same."
    from mcl.clustering import cluster
    from mcl.update import GrowingClusters

    rows, fresh_s, added_s, same = people(n + new), [], [], True
    for _ in range(rounds):
        growing = GrowingClusters(K1)
        growing.add(rows[:n])
        compared = growing.pairs_
        added, *spent = clock(lambda growing=growing: growing.add(rows[n:]))
        added_s.append(spent)
        fresh, *spent = clock(lambda: cluster(rows, K1, check=False))
        fresh_s.append(spent)
        same = same and bool((added == fresh).all())
    least = [np.min(times, axis=0).tolist() for times in (added_s, fresh_s)]
    (added, added_busy), (fresh, fresh_busy) = least
    row = dict(images=n, new=new, dimensions=DIMENSIONS, same=same, pairs=growing.pairs_ - compared)
    row |= dict(pairs_of_all=(n + new) * (n + new + 1) // 2, added_s=added, fresh_s=fresh)
    row |= dict(added_processor_s=added_busy, fresh_processor_s=fresh_busy)
    print(row, flush=True)
    return row


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--images', type=int, default=12936, help='clustered before')
    parser.add_argument('--new', type=int, nargs='+', default=[100, 1000], help='images that join them')
    parser.add_argument('--rounds', type=int, default=3)
    args = parser.parse_args()
    from mcl.core import write_json
    from mcl.features import cores
    from mcl.records import provenance

    measure(600, 50, 1)
    runs = [measure(args.images, new, args.rounds) for new in args.new]
    write_json(RESULTS, dict(study='growing', threads=cores(), provenance=provenance('cpu'), runs=runs))


if __name__ == '__main__':
    main()
