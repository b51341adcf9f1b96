#!/usr/bin/env python
"""Seconds of clustering four windows one after the other by one process, with one thread and with two, and
side by side by two processes of one thread each: figures/results/windows.json.

Each case is started by torchrun, the cases take turns, and the fastest of some rounds counts. All must give
the same labels.

    python tools/windows.py --images 12936 32621
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tools')]
from neighbours import DIMENSIONS, people

RESULTS = ROOT / 'figures' / 'results' / 'windows.json'
WINDOWS = 4
CASES = {  # processes and threads of each
    'one process, one thread': (1, 1),
    'one process, two threads': (1, 2),
    'two processes, one thread each': (2, 1),
}


def job(path: str, threads: int) -> None:
    "One process of a case: print the seconds and a sum over the labels that changes with any of them."
    from threadpoolctl import threadpool_limits

    from mcl.config import MCL
    from mcl.distributed import join_processes, processes
    from mcl.pseudo_labels import cluster_sets

    torch.set_num_threads(threads)
    join_processes('cpu')
    features = torch.from_numpy(np.load(path))
    sets = np.array_split(np.arange(len(features)), WINDOWS)
    with threadpool_limits(threads):
        cluster_sets(features[:600], np.array_split(np.arange(600), WINDOWS), 600, MCL)
        if processes()[1] > 1:
            torch.distributed.barrier()
        start = time.perf_counter()
        labels = cluster_sets(features, sets, len(features), MCL)
        seconds = time.perf_counter() - start
    if processes()[0] == 0:
        print(json.dumps(dict(seconds=seconds, labels=int(labels @ np.arange(1, len(labels) + 1)))))


def run_case(case: str, path: Path) -> dict:
    "What the first process of a case prints."
    processes, threads = CASES[case]
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={processes}']
    words = [__file__, '--job', str(path), str(threads)]
    done = subprocess.run([*command, *words], check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout.splitlines()[-1])


def measure(n: int, rounds: int, path: Path) -> dict:
    "The least seconds of each case, and whether all labels are the same."
    np.save(path, people(n))
    made = [{case: run_case(case, path) for case in CASES} for _ in range(rounds)]
    seconds = {case: min(run[case]['seconds'] for run in made) for case in CASES}
    same = len({found['labels'] for run in made for found in run.values()}) == 1
    row = dict(images=n, windows=WINDOWS, dimensions=DIMENSIONS, rounds=rounds, same=same, seconds=seconds)
    print(row, flush=True)
    return row


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--images', type=int, nargs='+', default=[12936, 32621])
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--folder', type=Path, default=Path(), help='where features are put for a while')
    parser.add_argument('--job', nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        job(args.job[0], int(args.job[1]))
        return
    from mcl.core import write_json
    from mcl.records import provenance

    path = args.folder / 'windows.npy'
    try:
        runs = [measure(n, args.rounds, path) for n in args.images]
    finally:
        path.unlink(missing_ok=True)
    write_json(RESULTS, dict(study='windows', provenance=provenance('cpu'), runs=runs))


if __name__ == '__main__':
    main()
