"""Seconds of exact neighbours with candidates in float32 and in bfloat16, taken in turns:
figures/results/neighbours.json.

    python tools/neighbours.py --images 12936 32621
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
RESULTS = ROOT / 'figures' / 'results' / 'neighbours.json'
DIMENSIONS, K1 = 2048, 30


def people(n: int) -> np.ndarray:
    "The features of `tools/scaling.py`: 17 images around each random centre."
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((n // 17, DIMENSIONS), np.float32)[rng.integers(n // 17, size=n)]
    rows += rng.standard_normal(rows.shape, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def clock(function) -> tuple:
    "What a function returns, its seconds, and the processor time it took."
    start, busy = time.perf_counter(), time.process_time()
    found = function()
    return found, time.perf_counter() - start, time.process_time() - busy


def measure(n: int, rounds: int) -> dict:
    "The least seconds of some rounds each; are all lists the same, did coarse candidates serve?"
    from mcl.neighbours import coarse_candidates, exact_neighbours

    rows, times, lists = people(n), {False: [], True: []}, {}
    for _ in range(rounds):
        for coarse in times:
            lists[coarse], *spent = clock(lambda coarse=coarse: exact_neighbours(rows, K1, coarse=coarse))
            times[coarse].append(spent)
    same = all((one == other).all() for one, other in zip(*lists.values()))
    served = coarse_candidates(rows, K1, 2 * K1 + 4) is not None
    fine, coarse = (np.min(times[kind], axis=0).tolist() for kind in times)
    row = dict(images=n, dimensions=DIMENSIONS, same=bool(same), served=served)
    row |= dict(float32_s=fine[0], bfloat16_s=coarse[0])
    row |= dict(times_faster=fine[0] / coarse[0], float32_processor_s=fine[1], bfloat16_processor_s=coarse[1])
    print(row, flush=True)
    return row


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--images', type=int, nargs='+', default=[12936, 32621])
    parser.add_argument('--rounds', type=int, default=3)
    args = parser.parse_args()
    from mcl.core import write_json
    from mcl.features import cores
    from mcl.neighbours import multiplies_bfloat16
    from mcl.records import provenance

    measure(600, 1)
    runs = [measure(n, args.rounds) for n in args.images]
    note = dict(study='neighbours', threads=cores(), matrix_instructions=multiplies_bfloat16())
    write_json(RESULTS, dict(**note, provenance=provenance('cpu'), runs=runs))


if __name__ == '__main__':
    main()
