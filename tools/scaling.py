#!/usr/bin/env python
"""Time and memory of clustering against the number of images; writes figures/results/scaling.json.

Each measurement runs in a process of its own. What is in the file already is not measured again.

    # everything up to 32,621 images, about ten minutes on two cores
    python tools/scaling.py
    python tools/scaling.py --images 100000       # and one larger size, 2,048 dimensions
    python tools/scaling.py --images 1000000 --dim 256 --methods approximate
    python tools/scaling.py --indexes             # ways to find neighbours approximately, side by side
    python tools/scaling.py --images 12936 32621 --methods peer --peer cluster-contrast-reid
    # Cluster Contrast's own code, from a checkout of it
    python tools/scaling.py --images 100000 --dim 256 --data pedworld --methods exact approximate
    # images of pedestrians, rendered and sent through the starting network

"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
RESULTS = ROOT / 'figures' / 'results' / 'scaling.json'
PARAMETERS = dict(k1=30, k2=6, eps=0.6, min_samples=4)


def write_features(path, n, dim, kind, seed=0, step=4096):
    """Unit features: n // 17 random centres plus noise ('people'), the same after a random curved map from 32
    dimensions ('curved'), or 'pedworld'.
    """
    if kind == 'pedworld':
        return write_pedworld_features(path, n, dim, seed)
    rng = np.random.default_rng(seed)
    inner = 32 if kind == 'curved' else dim
    centres = rng.standard_normal((n // 17, inner), dtype=np.float32)
    first, second = (
        rng.standard_normal((inner, 256), dtype=np.float32),
        rng.standard_normal((256, dim), dtype=np.float32),
    )
    rows = np.lib.format.open_memmap(path, 'w+', np.float32, (n, dim))
    for start in range(0, n, step):
        x = centres[rng.integers(len(centres), size=min(step, n - start))]
        x = x + (0.5 if kind == 'curved' else 1) * rng.standard_normal(x.shape, dtype=np.float32)
        if kind == 'curved':
            x = np.tanh(x @ first / inner**0.5) @ second / 16
            x += 0.05 * rng.standard_normal(x.shape, dtype=np.float32)
        rows[start : start + step] = x / np.linalg.norm(x, axis=1, keepdims=True)
    rows.flush()


def write_pedworld_features(path, n, dim, seed=0):
    """Features of n rendered training images, about 17 a person, by the small network's starting weights; dim
    must be 256.
    """
    from dataclasses import replace

    from mcl.data import load_folder
    from mcl.images import ImageStore
    from mcl.models import build_model, extract_features
    from mcl.pedworld import render
    from mcl.world import preset

    world = replace(
        preset('desk'),
        n_ids=n // 17,
        images_per_id=n / (n // 17),
        n_test_ids=2,
        n_distractors=0,
        n_junk=0,
        seed=seed,
    )
    with tempfile.TemporaryDirectory(dir=Path(path).parent) as folder:
        images = ImageStore(load_folder(render(world, Path(folder, 'world'))).train, (64, 32))
        features = extract_features(build_model('small'), images).numpy()
    if features.shape != (n, dim):
        raise ValueError(
            f'the rendered images gave features of shape {features.shape}, asked for {(n, dim)}; use --dim '
            '256'
        )
    np.save(path, features)


def matrix_rate(x, repeats=5):
    "Multiplications and additions a second of the best of several large float32 products, all cores."
    side = min(4096, len(x) // 2)
    out, best = np.empty((side, side), np.float32), np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        np.matmul(x[:side], x[side : 2 * side].T, out=out)
        best = min(best, time.perf_counter() - start)
    return 2 * side**2 * x.shape[1] / best


class PeakMemory:
    """Largest growth of this process's own resident memory inside a `with`, in MiB; pages of a mapped file do
    not count.
    """

    def __enter__(self):
        self.stop = threading.Event()
        self.before = self.peak = self.own()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while not self.stop.wait(0.005):
            self.peak = max(self.peak, self.own())

    def own(self):
        import psutil

        now = psutil.Process().memory_info()
        return now.rss - getattr(now, 'shared', 0)

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        self.peak = max(self.peak, self.own())
        self.mib = (self.peak - self.before) / 2**20


def peer_distances(x, checkout):
    "Cluster Contrast's distances on CPU, by the code in a checkout of its repository."
    import torch

    sys.path.insert(0, checkout)
    from clustercontrast.utils.faiss_rerank import compute_jaccard_distance

    return compute_jaccard_distance(
        torch.from_numpy(np.ascontiguousarray(x)),
        PARAMETERS['k1'],
        PARAMETERS['k2'],
        print_flag=False,
        search_option=3,
    )


def labels_by(method, x, checkout=None):
    "Labels by the exact, the approximate, the dense or the peer's way."
    from sklearn.cluster import DBSCAN

    from mcl.clustering import cluster
    from mcl.jaccard import dense_jaccard

    if method in ('exact', 'approximate'):
        return cluster(x, **PARAMETERS, exact=method == 'exact', check=False)
    distances = (
        peer_distances(x, checkout)
        if method == 'peer'
        else dense_jaccard(x, PARAMETERS['k1'], PARAMETERS['k2'])
    )
    return DBSCAN(
        eps=PARAMETERS['eps'], min_samples=PARAMETERS['min_samples'], metric='precomputed', n_jobs=-1
    ).fit_predict(distances)


def search_chosen(x):
    "What `exact=False` searches on these features: so many axes, or so many of the lists, or neither."
    from mcl.approximate import cheapest_search

    known = getattr(cheapest_search(x, PARAMETERS['k1']), 'keywords', {})
    axes, centroids = known.get('axes'), known.get('centroids')
    return dict(
        axes=None if axes is None else axes.shape[1],
        lists=None if centroids is None else len(centroids),
        lists_read=known.get('probes'),
    )


def measure(job):
    "One run: floor before and after, time, memory, labels."
    from mcl.features import cores
    from mcl.records import commit

    x = np.load(job['path'], mmap_mode='c' if job['on_disk'] else None)
    part = np.array(x[:8192])
    rate = matrix_rate(part)
    labels_by(job['method'], part[:600], job['peer'])
    started, start, busy = (
        datetime.now(timezone.utc).isoformat(timespec='seconds'),
        time.perf_counter(),
        time.process_time(),
    )
    with PeakMemory() as memory:
        labels = labels_by(job['method'], x, job['peer'])
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    rate = max(rate, matrix_rate(part))
    np.save(job['labels'], labels)
    chosen = search_chosen(x) if job['method'] == 'approximate' else {}
    floor = 2 * len(x) ** 2 * x.shape[1] / rate
    return dict(
        study='scaling',
        method=job['method'],
        data=job['data'],
        clustered_images=len(x),
        dim=x.shape[1],
        **PARAMETERS,
        clustering_s=seconds,
        clustering_peak_mib=memory.mib,
        kib_per_image=memory.mib * 1024 / len(x),
        matrix_gflops=rate / 1e9,
        floor_s=floor,
        ratio_to_floor=seconds / floor,
        cores_used=busy / seconds,
        **chosen,
        n_clusters=int(labels.max()) + 1,
        outlier_rate=float((labels < 0).mean()),
        threads=cores(),
        on_disk=job['on_disk'],
        commit=commit(),
        device=platform.processor() or platform.machine(),
        versions={name: version(name) for name in ('numpy', 'scipy', 'numba', 'torch', 'faiss-cpu')},
        started=started,
    )


def measure_indexes(job):
    "Seconds and recall of several ways to find 30 neighbours."
    import faiss

    from mcl.approximate import cheapest_search, deal_out, neighbours_in_lists
    from mcl.neighbours import exact_neighbours

    x, runs = np.load(job['path']), []
    n, dim = x.shape
    short = x[:600]
    exact_neighbours(short, 30), neighbours_in_lists(short, 30, *deal_out(short, 10), 3)

    def ours(**limits):
        return cheapest_search(x, 30, **limits)(x, 30)[1]

    def hnsw(links, effort):
        index = faiss.IndexHNSWFlat(dim, links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = effort, effort
        index.add(x)
        return index.search(x, 30)[1]

    def inverted(probes):
        lists = int(4 * n**0.5)
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.min_points_per_centroid, index.nprobe = 1, probes
        index.train(x[: 40 * lists])
        index.add(x)
        return index.search(x, 30)[1]

    def descent():
        from pynndescent import NNDescent

        return NNDescent(x, metric='dot', n_neighbors=30, random_state=0, n_jobs=-1).neighbor_graph[0]

    ways = {
        'exact': lambda: exact_neighbours(x, 30)[1],
        'principal axes': lambda: ours(least=0, least_lists=n + 1),
        'few lists': lambda: ours(least=n + 1, least_lists=0),
        'HNSW, effort 64': lambda: hnsw(32, 64),
        'HNSW, effort 256': lambda: hnsw(32, 256),
        'IVF, 8 lists read': lambda: inverted(8),
        'IVF, 64 lists read': lambda: inverted(64),
        'NN-descent': descent,
    }
    truth = None
    for name, way in ways.items():
        if name in job['known'] and name != 'exact':
            continue
        start = time.perf_counter()
        found = way()
        seconds = time.perf_counter() - start
        truth = found if truth is None else truth
        recall = np.mean([len(np.intersect1d(a, b)) for a, b in zip(truth[::10], found[::10])]) / 30
        if name in job['known']:
            continue
        runs.append(
            dict(
                study='indexes',
                method=name,
                data=job['data'],
                clustered_images=n,
                dim=dim,
                neighbours_s=seconds,
                recall=float(recall),
            )
        )
        print(runs[-1], flush=True)
    return runs


def in_child(job):
    "Run a job in a fresh process and return what it measured."
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, 'answer.json')
        subprocess.run(
            [sys.executable, __file__, '--job', json.dumps(job), str(answer)], check=True, cwd=ROOT
        )
        return json.loads(answer.read_text())


def save(runs):
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    draft = RESULTS.with_suffix('.part')
    draft.write_text(json.dumps(dict(study='scaling', runs=runs), indent=1) + '\n')
    os.replace(draft, RESULTS)


def known(runs, **facts):
    return any(all(run.get(key) == value for key, value in facts.items()) for run in runs)


def agreement(folder, run):
    """Adjusted Rand index against the exact labels of the same features, where they were made in the same
    call.
    """
    from sklearn.metrics import adjusted_rand_score

    exact, other = Path(folder, 'exact.npy'), Path(folder, f"{run['method']}.npy")
    return adjusted_rand_score(np.load(exact), np.load(other)) if exact.exists() and exact != other else None


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--images',
        type=int,
        nargs='*',
        help='numbers of images; default: 1,000 to 32,621, or 20,000 for --indexes',
    )
    parser.add_argument('--dim', type=int, default=2048)
    parser.add_argument('--data', choices=('people', 'curved', 'pedworld'), default='people')
    parser.add_argument(
        '--methods', nargs='*', choices=('exact', 'dense', 'approximate', 'peer'), default=['exact', 'dense']
    )
    parser.add_argument(
        '--peer', type=os.path.abspath, help='folder of a checkout of Cluster Contrast, for --methods peer'
    )
    parser.add_argument('--largest-dense', type=int, default=2000)
    parser.add_argument('--on-disk', action='store_true', help='read the features through a memory map')
    parser.add_argument('--indexes', action='store_true')
    parser.add_argument(
        '--folder',
        type=os.path.abspath,
        help='where the features are kept for the next call; otherwise they go when it ends',
    )
    parser.add_argument('--job', nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        job = json.loads(args.job[0])
        answer = measure_indexes(job) if job['method'] == 'indexes' else measure(job)
        Path(args.job[1]).write_text(json.dumps(answer))
        return
    if 'peer' in args.methods and not args.peer:
        parser.error(
            '--methods peer needs --peer, a checkout of https://github.com/alibaba/cluster-contrast-reid'
        )
    runs = json.loads(RESULTS.read_text())['runs'] if RESULTS.exists() else []
    for n in args.images or ([20000] if args.indexes else [1000, 2000, 4000, 8000, 12936, 32621]):
        methods = (
            ['indexes']
            if args.indexes
            else [m for m in args.methods if (m != 'dense' or n <= args.largest_dense)]
        )
        same = dict(clustered_images=n, dim=args.dim, data=args.data)
        methods = [m for m in methods if not known(runs, study='scaling', method=m, **same)]
        compared = [
            run['method']
            for run in runs
            if run['study'] == 'indexes' and all(run[key] == value for key, value in same.items())
        ]
        if not methods:
            continue
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            path = Path(args.folder or folder, f'{args.data}-{n}x{args.dim}.npy')
            if not path.exists():
                write_features(path.with_suffix('.part.npy'), n, args.dim, args.data)
                os.replace(path.with_suffix('.part.npy'), path)
            for method in methods:
                answer = in_child(
                    dict(
                        path=str(path),
                        method=method,
                        data=args.data,
                        peer=args.peer,
                        known=compared,
                        on_disk=args.on_disk,
                        labels=str(Path(folder, f'{method}.npy')),
                    )
                )
                if method != 'indexes':
                    answer['agreement_with_exact'] = agreement(folder, answer)
                    print(
                        {
                            key: answer[key]
                            for key in (
                                'method',
                                'clustered_images',
                                'dim',
                                'clustering_s',
                                'ratio_to_floor',
                                'kib_per_image',
                                'cores_used',
                                'n_clusters',
                                'agreement_with_exact',
                            )
                        },
                        flush=True,
                    )
                runs += answer if method == 'indexes' else [answer]
                save(runs)


if __name__ == '__main__':
    main()
