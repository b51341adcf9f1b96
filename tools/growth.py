#!/usr/bin/env python
"""How each cost grows with the number of images: clustering (exact, approximate, in windows), annotation,
features and ranking, in seconds and memory, and the bytes on disk; writes figures/results/growth.json.

Each measurement runs in a process of its own, on curved random features of 256 numbers (see
tools/scaling.py).
What is in the file already is not measured again. A cost that would take longer than --seconds at the next
size, as its growth so far says, is left out from there on.

    python tools/growth.py --up-to 30000                      # a few minutes
    python tools/growth.py --up-to 1000000 --seconds 4000     # hours; 8 GB of memory, 2 GB in --folder
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tools')]
from scaling import PARAMETERS, PeakMemory, write_features

RESULTS = ROOT / 'figures' / 'results' / 'growth.json'
SIZES = [1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000]
DIM, WINDOW, QUERIES, TOP_K = 256, 10_000, 500, 10


def cluster_windows(x, folder):
    "Windows of 10,000 images, each clustered by itself."
    from mcl.clustering import cluster

    for start in range(0, len(x), WINDOW):
        cluster(x[start : start + WINDOW], **PARAMETERS, check=False)


def cluster_all(x, folder, exact=True):
    "One clustering of all images."
    from mcl.clustering import cluster

    cluster(x, **PARAMETERS, exact=exact, check=False)


def annotate(x, folder):
    "Soft labels of all images from the prototypes of one window, written as `mcl annotate` does."
    import torch

    from mcl.annotate import write_npz
    from mcl.prototypes import MetaPrototypes

    centroids = torch.from_numpy(np.array(x[: WINDOW // 17]))
    found = MetaPrototypes(centroids).annotate(torch.from_numpy(x), top_k=TOP_K)
    arrays = dict(probabilities=found[0].numpy(), prototypes=found[1].numpy().astype(np.int32))
    write_npz(Path(folder, 'labels.npz'), arrays, [])


class Noise:
    "A store of n images of noise, of which a few are held; decoding is left out."

    def __init__(self, n, held=2048):
        rng = np.random.default_rng(0)
        self.n, self.images = n, rng.integers(0, 256, (min(n, held), 3, 64, 32), dtype=np.uint8)

    def __len__(self):
        return self.n

    def batch(self, indices):
        import torch

        return torch.from_numpy(self.images[np.asarray(indices) % len(self.images)])


def look(x, folder):
    "Features of as many images by the small network, folded, 64 x 32."
    from mcl.inference import fast_network
    from mcl.models import build_model, extract_features

    extract_features(fast_network(build_model('small')), Noise(len(x)), progress=False)


def rank(x, folder):
    "500 queries ranked against all images, and scored."
    from mcl.evaluation import rank_metrics
    from mcl.reranking import euclidean_blocks

    rng = np.random.default_rng(0)
    pids, cameras = np.arange(len(x)) // 17, rng.integers(6, size=len(x))
    some = rng.choice(len(x), QUERIES, replace=False)
    rank_metrics(euclidean_blocks(x[some], x, chunk=64), pids[some], pids, cameras[some], cameras)


COSTS = {  # what is measured, and the powers of n that its seconds and its memory grow with
    'features': (look, 1, 1),
    'annotation': (annotate, 1, 1),
    'ranking of 500 queries': (rank, 1, 1),
    'clustering in windows of 10,000': (cluster_windows, 1, 0),
    'clustering, approximate': (lambda x, folder: cluster_all(x, folder, exact=False), 2, 1),
    'clustering, exact': (cluster_all, 2, 1),
}


def measure(cost, path, threads):
    "Seconds and memory of one cost, after a small run that compiles, and what lies on disk afterwards."
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(threads)
    x, (work, power, memory_power) = np.load(path), COSTS[cost]
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(threads):
        work(x[:1000], folder)
        start, busy = time.perf_counter(), time.process_time()
        with PeakMemory() as memory:
            work(x, folder)
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        written = Path(folder, 'labels.npz')
        disk = written.stat().st_size if written.exists() else None
    if cost == 'features':
        disk = Path(path).stat().st_size
    spent = dict(seconds=seconds, processor_s=busy, added_mib=memory.mib, disk_bytes=disk)
    return dict(cost=cost, images=len(x), **spent, power=power, memory_power=memory_power)


def in_child(*words):
    "What a fresh process measures."
    done = subprocess.run([sys.executable, __file__, '--job', *words], check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout.splitlines()[-1])


def too_long(runs, cost, n, seconds):
    "Would this cost take longer than so many seconds, as its largest measured size says?"
    before = max((run for run in runs if run['cost'] == cost), key=lambda run: run['images'], default=None)
    return before and before['seconds'] * (n / before['images']) ** COSTS[cost][1] > seconds


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--up-to', type=int, default=30_000, help='images at most')
    parser.add_argument('--seconds', type=float, default=600, help='of one measurement, at most')
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--folder', help='where features are put for a while; default: a temporary place')
    parser.add_argument('--results', type=Path, default=RESULTS, help='the file to write')
    parser.add_argument('--job', nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        cost, path, threads = args.job
        print(json.dumps(measure(cost, path, int(threads))))
        return
    from mcl.core import write_json
    from mcl.records import provenance

    runs = json.loads(args.results.read_text())['runs'] if args.results.exists() else []
    for n in [size for size in SIZES if size <= args.up_to]:
        known = {run['cost'] for run in runs if run['images'] == n}
        wanted = [cost for cost in COSTS if cost not in known and not too_long(runs, cost, n, args.seconds)]
        if not wanted:
            continue
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            path = Path(folder, 'features.npy')
            write_features(path, n, DIM, 'curved')
            for cost in wanted:
                made = dict(provenance('cpu'), threads=args.threads)
                runs.append(dict(in_child(cost, str(path), str(args.threads)), dim=DIM, **made))
                print({key: runs[-1][key] for key in ('cost', 'images', 'seconds', 'added_mib')}, flush=True)
                write_json(args.results, dict(study='growth', runs=runs))


if __name__ == '__main__':
    main()
