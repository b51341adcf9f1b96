#!/usr/bin/env python
"""Cluster Contrast's own training program, from its first epoch to its last, on worlds of PedWorld; writes
figures/results/peer_training.json. On Market-1501, beside our study of it, it writes
figures/results/real/cluster_contrast_market1501.json.

The program is theirs, `examples/cluster_contrast_train_usl.py` of a checkout, led to the CPU: loading,
augmentation, sampler, clustering by the dense Jaccard matrix, memory, trainer.
It gets our small network with its starting weights, and the settings of `mcl reproduce`, so that it
answers whether our `full` is a fair stand-in for it.
The features are extracted by their code and ranked by `mcl.evaluation`. What is in the file already is
not trained again.
Their crops move by up to 10 pixels, which suits 256 x 128 and not 64 x 32: each world is run as the
program stands, and with the padding in proportion, as ours is. Market-1501 gets the latter.

    # some minutes a world
    python tools/peer_training.py --peer cluster-contrast-reid --worlds 5 --root runs/worlds
    # Market-1501: the network, epochs and steps of `mcl reproduce --study market1501`, one run a seed;
    # with --beside, each followed by ours, so that their seconds were taken one after the other
    python tools/peer_training.py --peer cluster-contrast-reid --data-dir /data --seeds 1 2 3 --beside
    # the same on two cores, where the peer also loads images in processes of its own
    python tools/peer_training.py --peer cluster-contrast-reid --data-dir /data --seeds 3 --beside \
        --threads 2 --workers 2
"""

import argparse
import json
import os
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime, timezone
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
from tqdm.auto import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tools')]
from throughput import led_to_the_cpu, peer_code, peer_commit

from mcl.config import DESK, TrainConfig
from mcl.core import write_json
from mcl.data import load_dataset
from mcl.evaluation import rank_metrics
from mcl.images import default_padding, open_stores
from mcl.measuring import Stopwatch
from mcl.models import build_model
from mcl.records import installed, provenance
from mcl.state import precision_on
from mcl.training import train
from mcl.variants import MARKET_LENGTH

RESULTS = ROOT / 'figures' / 'results' / 'peer_training.json'
MARKET_RESULTS = ROOT / 'figures' / 'results' / 'real' / 'cluster_contrast_market1501.json'
PROGRAM = 'cluster_contrast_program'


def arguments(config, logs, workers=0):
    "What the peer's command line would have held."
    return SimpleNamespace(
        dataset='market1501',
        data_dir=None,
        batch_size=config.p * config.k,
        workers=workers,
        height=config.height,
        width=config.width,
        num_instances=config.k,
        eps=config.eps,
        k1=config.k1,
        k2=config.k2,
        arch='small',
        momentum=config.momentum,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        epochs=config.epochs,
        iters=config.steps_per_epoch,
        step_size=config.decay_every,
        print_freq=10**9,
        eval_step=config.epochs,
        temp=config.temperature,
        use_hard=config.hard_update,
        no_cam=False,
        logs_dir=str(logs),
    )


class Judge:
    "Stands where the peer's Evaluator stands: their features, our ranking, once for each state of it."

    def __init__(self, network, extract, watch):
        self.network, self.extract, self.watch, self.found, self.judged = network, extract, watch, None, None

    def evaluate(self, loader, query, gallery, cmc_flag=False):
        state = [value.clone() for value in self.network.state_dict().values()]
        if self.judged is None or not all(map(torch.equal, state, self.judged)):
            with self.watch('evaluation'):
                self.found, self.judged = self.judge(loader, query, gallery), state
        return float(self.found.mAP)

    def judge(self, loader, query, gallery):
        self.network.module.precision = 'float32'    # training has ended, and ours is judged so too
        features, _ = self.extract(self.network, loader, print_freq=10**9)
        q, g = (torch.stack([features[path] for path, _, _ in rows]) for rows in (query, gallery))
        (_, qp, qc), (_, gp, gc) = zip(*query), zip(*gallery)
        return rank_metrics(1 - q @ g.T, qp, gp, qc, gc)


def timed(watch, account, function):
    "The function, its seconds on an account."

    def run(*args, **kw):
        with watch(account):
            return function(*args, **kw)

    return run


@contextmanager
def watched(code, watch, labels):
    "The peer's program with a clock at its parts; the labels of each clustering are collected."

    class Clustering(code.DBSCAN):
        def fit_predict(self, distances):
            with watch('clustering'):
                labels.append(super().fit_predict(distances))
            return labels[-1]

    distances = partial(code.compute_jaccard_distance, search_option=3)
    trainer = code.ClusterContrastTrainer
    with (
        mock.patch.object(code, 'extract_features', timed(watch, 'features', code.extract_features)),
        mock.patch.object(code, 'compute_jaccard_distance', timed(watch, 'clustering', distances)),
        mock.patch.object(code, 'DBSCAN', Clustering),
        mock.patch.object(trainer, 'train', timed(watch, 'train', trainer.train)),
    ):
        yield


def data_of(world, folder):
    "The peer's own reader of the Market-1501 layout, on a folder in that layout."
    from clustercontrast.datasets.market1501 import Market1501

    place = Path(folder, Market1501.dataset_dir)
    if not place.exists():
        place.symlink_to(world.root.resolve(), target_is_directory=True)
    return Market1501(folder, verbose=False)


def network_of(config):
    "Our small network, as the peer's program expects one."
    model = build_model(config.arch, config.weights, seed=config.seed)
    model.num_features, model.precision = model.dim, precision_on('cpu', config.precision)
    return torch.nn.DataParallel(model)


def train_theirs(code, config, world, padding, workers=0):
    "One run of the peer's program: what its network reaches, its seconds by part, and its last labels."
    judges, watch, labels, extract = [], Stopwatch(), [], code.extract_features

    def judge(network):
        judges.append(Judge(network, extract, watch))
        return judges[-1]

    torch.manual_seed(config.seed)
    np.random.seed(config.seed)
    code.random.seed(config.seed)
    code.best_mAP = 0
    start, screen, pad = time.perf_counter(), sys.stdout, code.T.Pad
    with (
        tempfile.TemporaryDirectory() as folder,
        led_to_the_cpu(),
        watched(code, watch, labels),
        mock.patch.object(code, 'create_model', lambda args: network_of(config)),
        mock.patch.object(code, 'get_data', lambda name, folder_: data_of(world, folder)),
        mock.patch.object(code, 'Evaluator', judge),
        mock.patch.object(code, 'Logger', lambda path: screen),
        mock.patch.object(code.T, 'Pad', lambda pixels: pad(padding)),
    ):
        code.main_worker(arguments(config, folder, workers))
    seconds = {f'{account}_s': spent for account, spent in watch.seconds.items()}
    seconds['total_s'] = time.perf_counter() - start - watch.seconds['evaluation']
    return judges[-1].found, seconds, labels[-1]


BESIDE = {'full': {}, 'full_fast': dict(feature_precision='fused_bfloat16', prefetch=True)}


def train_ours(variant, config, dataset, padding):
    "The same run by this library, decoded once; plain or with what makes it faster. A row of the file."
    start = time.perf_counter()
    stores = open_stores(dataset, (config.height, config.width), progress=False)
    loading = time.perf_counter() - start
    run = train(replace(config, **BESIDE[variant]), dataset, stores=stores)
    return dict(run.record, variant=variant, padding=padding, loading_s=loading)


def measure(code, config, world, padding, args):
    "One run, as a row of the result file; as in our records, the total is without the evaluation."
    started = datetime.now(timezone.utc).isoformat(timespec='seconds')
    found, seconds, labels = train_theirs(code, config, world, padding, args.workers)
    made = provenance('cpu')
    made['versions']['pillow'] = installed('pillow')
    steps = config.epochs * config.steps_per_epoch
    return dict(
        method=PROGRAM,
        variant=PROGRAM,
        world=world.name,
        seed=config.seed,
        padding=padding,
        epochs=config.epochs,
        steps=steps,
        images_seen=steps * config.p * config.k,
        **found.percentages(),
        **seconds,
        n_clusters=int(labels.max()) + 1,
        outlier_rate=float((labels < 0).mean()),
        peer_workers=args.workers,
        peer_commit=peer_commit(args.peer),
        started=started,
        computed_in=precision_on('cpu', config.precision),
        **made,
        config=asdict(config),
    )


def wanted_runs(args):
    "Settings, data set and padding of each run, as functions of no argument for the data set."
    own = default_padding(TrainConfig().height)
    if args.data_dir:
        length = {**DESK, **MARKET_LENGTH, 'epochs': args.epochs, 'steps_per_epoch': args.steps}
        market = load_dataset('market1501', root=args.data_dir)
        return [
            (TrainConfig(method='full', seed=seed, **length), lambda: market, own) for seed in args.seeds
        ]
    return [
        (
            TrainConfig(method='full', seed=seed, **DESK),
            partial(load_dataset, f'pedworld-desk-seed{seed}', root=args.root),
            padding,
        )
        for padding in (own, 10)
        for seed in range(1, args.worlds + 1)
    ]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--peer', type=os.path.abspath, required=True, help='folder of a checkout of Cluster Contrast'
    )
    parser.add_argument('--worlds', type=int, default=5, help='desk worlds of the seeds 1 to this')
    parser.add_argument('--root', default='worlds', help='folder of rendered worlds')
    parser.add_argument('--data-dir', help='where Market-1501 lies: train on it, not on worlds')
    parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3], help='of the runs on Market-1501')
    parser.add_argument('--epochs', type=int, default=MARKET_LENGTH['epochs'], help='on Market-1501')
    parser.add_argument(
        '--steps', type=int, default=MARKET_LENGTH['steps_per_epoch'], help='in an epoch on Market-1501'
    )
    parser.add_argument('--threads', type=int, help='of torch; default: its own choice')
    parser.add_argument('--workers', type=int, default=0, help='processes that load images for the peer')
    parser.add_argument('--beside', action='store_true', help='after each run, the same by this library')
    parser.add_argument('--results', type=Path, help='another file to write')
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    results = args.results or (MARKET_RESULTS if args.data_dir else RESULTS)
    runs = json.loads(results.read_text())['runs'] if results.exists() else []
    code = peer_code(args.peer)
    keys = ('variant', 'computed_in', 'threads', 'padding', 'seed', 'epochs', 'steps')
    usual = dict(variant=PROGRAM, computed_in='float32', threads=1)
    threads = torch.get_num_threads()
    known = {tuple((usual | run)[key] for key in keys) for run in runs}
    variants = (PROGRAM, *BESIDE) if args.beside else (PROGRAM,)
    for (config, dataset, padding), variant in tqdm([*product(wanted_runs(args), variants)], unit='run'):
        steps = config.epochs * config.steps_per_epoch
        precision = precision_on('cpu', config.precision)
        if (variant, precision, threads, padding, config.seed, config.epochs, steps) in known:
            continue
        if variant == PROGRAM:
            row = measure(code, config, dataset(), padding, args)
        else:
            row = train_ours(variant, config, dataset(), padding)
        runs.append(dict(row, study=results.stem))
        write_json(results, dict(study=results.stem, runs=runs))


if __name__ == '__main__':
    main()
