"""What separates a drawn world from photographs: cameras, clusters, outliers and ranking before training.

    python tools/world_gap.py --market DIR [WORLD ...]    writes figures/results/world_gap.json

DIR holds Market-1501 as its authors distribute it. A WORLD is a name such as pedworld-desk-seed1 or
pedworld-desk-seed1-camera_gap=2. What is measured already is kept, so the command can be repeated with more.
"""
import argparse
import json
from pathlib import Path

import numpy as np
from sklearn.metrics import adjusted_rand_score

from mcl.approximate import knn
from mcl.clustering import cluster
from mcl.config import DESK
from mcl.core import write_json
from mcl.data import load_dataset, read_ids
from mcl.evaluation import evaluate
from mcl.images import open_stores
from mcl.models import build_model, extract_features
from mcl.records import commit, provenance
from mcl.sampling import split_subsets

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / 'figures' / 'results' / 'world_gap.json'
NETWORKS = {  # name -> architecture, starting weights, height and width in pixels
    'small, from PedWorld': ('small', 'source', (64, 32)),
    'EfficientNet-Lite0, from ImageNet': ('efficientnet_lite0', 'imagenet', (128, 64)),
}


def people_and_windows(samples, pids: np.ndarray) -> dict:
    "How many images a person has, and how many of four windows of time."
    windows = np.empty(len(samples), int)
    for number, members in enumerate(split_subsets(samples, 4)):
        windows[members] = number
    crossing = [len(set(windows[pids == pid])) > 1 for pid in np.unique(pids)]
    return dict(images=len(samples), people=len(crossing), images_per_person=len(samples) / len(crossing),
                people_in_several_windows=float(np.mean(crossing)))


def looked_at(model, stores) -> dict:
    "What one network makes of a world before any training."
    parts = (stores.train, stores.query, stores.gallery)
    train, query, gallery = (extract_features(model, store, progress=False) for store in parts)
    camids, pids = read_ids(stores.train.samples)
    nearest = knn(train, 2)[1][:, 1]
    labels = cluster(train, DESK['k1'], 6, DESK['eps'], check=False)
    kept = labels >= 0
    metrics = evaluate(query, gallery, stores.query.samples, stores.gallery.samples)
    return dict(nearest_same_camera=float((camids[nearest] == camids).mean()),
                nearest_same_person=float((pids[nearest] == pids).mean()),
                clusters=int(labels.max() + 1), outliers=float(1 - kept.mean()),
                agreement=float(adjusted_rand_score(pids[kept], labels[kept])), **metrics.percentages())


def measured(name: str, root: Path) -> list[dict]:
    "One row for each network."
    dataset, rows = load_dataset(name, root=root), []
    facts = people_and_windows(dataset.train, read_ids(dataset.train)[1])
    for network, (arch, weights, size) in NETWORKS.items():
        stores = open_stores(dataset, size, progress=False)
        seen = looked_at(build_model(arch, weights), stores)
        rows.append(dict(world=name, network=network, **facts, **seen, commit=commit()))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('worlds', nargs='*')
    parser.add_argument('--market', type=Path, required=True, help='folder of Market-1501')
    parser.add_argument('--out', type=Path, default=RESULTS)
    options = parser.parse_args()
    found = json.loads(options.out.read_text()) if options.out.exists() else dict(runs=[])
    rows = [dict(commit=found['commit']) | row for row in found['runs']]
    for name in ['market1501', *options.worlds]:
        if all(row['world'] != name for row in rows):
            rows += measured(name, options.market if name == 'market1501' else ROOT / 'runs' / 'worlds')
            write_json(options.out, dict(study='world_gap', **provenance('cpu'), runs=rows))


if __name__ == '__main__':
    main()
