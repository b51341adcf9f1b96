"""Do soft labels know people whom no cluster ever held? Quality of the annotation on people never seen in
X1.

    python tools/annotator.py       reads the finished runs in runs/desk, writes
    figures/results/annotator.json

For every world and network (before training, after mcl with both losses, with one, with none): cluster
X1, build the meta-prototypes,
annotate the rest, and ask for every pair of images of one window and of people never seen in X1 whether
two images of one person look more
alike than images of two people: by feature, by soft label, and by nearest meta-prototype alone.
Calibration: how often does a pair show
one person where its soft labels agree by so much? Spread: over how many
meta-prototypes does a soft label spread, and over how many do all of them together?
"""

from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from tqdm.auto import tqdm

from mcl.core import write_json
from mcl.data import load_dataset, read_ids
from mcl.epoch import make_plan
from mcl.images import ImageStore
from mcl.losses import agreement
from mcl.models import build_model, extract_features
from mcl.pretrained import load_model
from mcl.prototypes import MetaPrototypes
from mcl.pseudo_labels import cluster_sets
from mcl.records import provenance
from mcl.studies import study_runs

ROOT = Path(__file__).resolve().parent.parent
RESULTS, RUNS = ROOT / 'figures' / 'results', ROOT / 'runs'
SHARES = (1.0, 0.5, 0.25, 0.125)


def similarities(features, prototypes):
    "Three ways to compare the images of one window, each (n, n)."
    soft = prototypes.annotate(features)
    nearest = soft.argmax(1)
    return {
        'features': features @ features.T,
        'soft labels': agreement(soft),
        'nearest prototype': (nearest[:, None] == nearest).float(),
    }


def quality(similarity, same, off):
    "ROC AUC over pairs, and share of images whose most similar image shows the same person."
    best = (similarity - 10 * torch.eye(len(similarity))).argmax(1)
    return roc_auc_score(same[off].numpy(), similarity[off].numpy()), float(
        same[torch.arange(len(same)), best].float().mean()
    )


def calibration(agreed, same, edges=np.linspace(0, 1, 11)):
    """Pairs by the agreement of their soft labels: mean agreement, share of pairs of one person, and number,
    in each tenth.
    """
    place = np.digitize(agreed, edges[1:-1])
    return [
        dict(
            agreed=float(agreed[place == t].mean()),
            same=float(same[place == t].mean()),
            pairs=int((place == t).sum()),
        )
        for t in np.unique(place)
    ]


def spread(soft):
    """Meta-prototypes, as an exponential of entropy, that one soft label spreads over, and that all together
    do.
    """
    entropy = lambda p: torch.special.entr(p).sum(-1)
    return dict(
        spread_of_one=float(entropy(soft).mean().exp()), spread_of_all=float(entropy(soft.mean(0)).exp())
    )


def rows_of(config, network, model, store, camids, pids):
    "One row for each share of the meta-prototypes and each way to compare, means over the windows."
    todo = make_plan(config, store.samples)
    features = extract_features(model, store, progress=False)
    own = np.concatenate(todo.clustered)
    labels = cluster_sets(features[own], todo.clustered, len(store), config)
    whole = MetaPrototypes.from_labels(
        features[own], torch.as_tensor(labels[own]), temperature=config.temperature
    )
    unseen, order = (
        ~np.isin(pids, pids[own]),
        np.random.default_rng(config.seed).permutation(len(whole.centroids)),
    )
    for share in SHARES:
        prototypes = MetaPrototypes(
            whole.centroids[order[: max(2, round(share * len(order)))]], temperature=config.temperature
        )
        found, agreed, together, soft = [], [], [], []
        for window in range(config.clustered_subsets, config.n_subsets):
            members = np.flatnonzero((todo.subset_ids == window) & unseen)
            same = torch.as_tensor(pids[members][:, None] == pids[members])
            off = torch.triu(torch.ones_like(same), 1).bool()
            ways = similarities(features[members], prototypes)
            agreed.append(ways['soft labels'][off].numpy())
            together.append(same[off].numpy())
            soft.append(prototypes.annotate(features[members]))
            found.append(
                {way: quality(s, same, off) for way, s in ways.items()}
                | {'chance': (0.5, float(same[off].float().mean()))}
            )
        for way in found[0]:
            auc, first = np.mean([f[way] for f in found], axis=0)
            more = (
                dict(
                    calibration=calibration(np.concatenate(agreed), np.concatenate(together)),
                    **spread(torch.cat(soft)),
                )
                if way == 'soft labels'
                else {}
            )
            yield dict(
                seed=config.seed,
                n_subsets=config.n_subsets,
                network=network,
                n_prototypes=len(prototypes.centroids),
                share=share,
                compared_by=way,
                auc=float(auc),
                precision_at_1=float(first),
                **more,
            )


def main():
    rows, worlds = [], {}
    shown = {
        'mcl_1_of_4': 'mcl',
        **{v: v for v in ('mcl_consistency_only', 'mcl_triplet_only', 'mcl_no_polish_loss')},
    }  # variants, and what the network is called
    for run in study_runs('fractions', 'desk') + study_runs('ablations', 'desk'):
        if run.variant in shown and (RUNS / run.folder / 'model.safetensors').exists():
            worlds.setdefault(run.world, {})[shown[run.variant]] = run
    for world, runs in tqdm(worlds.items(), unit='world'):
        config = next(iter(runs.values())).config
        dataset = load_dataset(world, root=RUNS / 'worlds')
        store = ImageStore(dataset.train, (config.height, config.width), progress=False)
        networks = {
            'untrained': build_model(config.arch, config.weights).eval(),
            **{name: load_model(RUNS / run.folder, config.arch) for name, run in runs.items()},
        }
        for network, model in networks.items():
            rows += rows_of(config, network, model, store, *read_ids(store.samples))
        write_json(RESULTS / 'annotator.json', dict(study='annotator', **provenance('cpu'), runs=rows))


if __name__ == '__main__':
    main()
