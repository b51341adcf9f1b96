"""Seconds that clustering takes, for one window of N and for all images, on the same features in one
process: figures/results/clustering_seconds.json.

python tools/clustering_seconds.py            # the worlds of the desk study, and features of the
benchmarks' sizes
python tools/clustering_seconds.py --small    # the worlds only
"""

import argparse
import time
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from mcl.clustering import cluster
from mcl.config import DESK
from mcl.core import write_json
from mcl.data import load_dataset
from mcl.images import ImageStore
from mcl.models import build_model, extract_features
from mcl.records import provenance
from mcl.sampling import split_subsets

ROOT = Path(__file__).resolve().parent.parent
PARTS = (1, 2, 4, 8, 16, 32)
SIZES = {'Market-1501': 12936, 'MSMT17': 32621}


def world_features(seed: int) -> tuple:
    "Name, features (n, d) of the starting network, subsets for every N, and settings of the clustering."
    dataset = load_dataset(f'pedworld-desk-seed{seed}', root=ROOT / 'runs' / 'worlds')
    store = ImageStore(dataset.train, (64, 32), progress=False)
    features = extract_features(build_model('small').eval(), store, progress=False).numpy()
    return (
        dataset.name,
        features,
        {n: split_subsets(store.samples, n) if n > 1 else [np.arange(len(store))] for n in PARTS},
        dict(k1=DESK['k1'], eps=DESK['eps']),
    )


def made_up_features(name: str, n: int, d: int = 2048, seed: int = 0) -> tuple:
    """Gaussian clouds of 17 images, as in the other measurements of clustering; equal parts in place of
    windows.
    """
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(n // 17, d)).astype(np.float32)
    features = centres[np.arange(n) % len(centres)] + rng.standard_normal((n, d), dtype=np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    order = np.argsort(np.arange(n) % len(centres), kind='stable')
    return (
        f'{name} size',
        features,
        {parts: np.array_split(order, parts) for parts in PARTS},
        dict(k1=30, eps=0.6),
    )


def seconds(features: np.ndarray, settings: dict, repeats: int) -> float:
    "The fastest of some repeats."

    def once():
        start = time.perf_counter()
        cluster(features, k2=6, min_samples=4, check=False, **settings)
        return time.perf_counter() - start

    return min(once() for _ in range(repeats))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--small', action='store_true', help='the worlds only')
    small, rows = parser.parse_args().small, []
    cluster(np.eye(8, dtype=np.float32), 4, 2, check=False)
    sources = [lambda seed=seed: world_features(seed) for seed in range(1, 6)] + [
        lambda s=s: made_up_features(*s) for s in ([] if small else SIZES.items())
    ]
    for source in tqdm(sources, unit='data set'):
        name, features, parts, settings = source()
        for n, subsets in parts.items():
            chosen = features[np.sort(subsets[0])]
            rows.append(
                dict(
                    data=name,
                    images=len(features),
                    dimensions=features.shape[1],
                    n_subsets=n,
                    clustered=len(chosen),
                    seconds=seconds(chosen, settings, 5 if len(chosen) < 8000 else 1),
                )
            )
        write_json(
            ROOT / 'figures' / 'results' / 'clustering_seconds.json',
            dict(study='clustering_seconds', **provenance('cpu'), runs=rows),
        )


if __name__ == '__main__':
    main()
