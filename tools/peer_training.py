#!/usr/bin/env python
"""Cluster Contrast's own training program, from its first epoch to its last, on worlds of PedWorld; writes
figures/results/peer_training.json.

The program is theirs, `examples/cluster_contrast_train_usl.py` of a checkout, led to the CPU: loading,
augmentation, clustering by the dense Jaccard matrix, memory, trainer.
It gets our small network with its starting weights, and the settings of `mcl reproduce`, so that it
answers whether our `full` is a fair stand-in for it.
The features are extracted by their code and ranked by `mcl.evaluation`. What is in the file already is
not trained again.
Their crops move by up to 10 pixels, which suits 256 x 128 and not 64 x 32: each world is run as the
program stands, and with the padding in proportion, as ours is.

    # some minutes a world
    python tools/peer_training.py --peer cluster-contrast-reid --worlds 5 --root runs/worlds
"""

import argparse
import json
import os
import sys
import tempfile
import time
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
from tqdm.auto import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tools')]
from throughput import DEVICE, led_to_the_cpu, peer_code, peer_commit

from mcl.config import DESK, TrainConfig
from mcl.core import write_json
from mcl.data import load_dataset
from mcl.evaluation import rank_metrics
from mcl.images import default_padding
from mcl.models import build_model
from mcl.records import commit

RESULTS = ROOT / 'figures' / 'results' / 'peer_training.json'


def arguments(config, logs):
    "What the peer's command line would have held."
    return SimpleNamespace(
        dataset='market1501',
        data_dir=None,
        batch_size=config.p * config.k,
        workers=0,
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
    "Stands where the peer's Evaluator stands: their features, our ranking."

    def __init__(self, network, code):
        self.network, self.code = network, code

    def evaluate(self, loader, query, gallery, cmc_flag=False):
        features, _ = self.code.extract_features(self.network, loader, print_freq=10**9)
        q, g = (torch.stack([features[path] for path, _, _ in rows]) for rows in (query, gallery))
        (_, qp, qc), (_, gp, gc) = zip(*query), zip(*gallery)
        self.found = rank_metrics(1 - q @ g.T, qp, gp, qc, gc)
        return float(self.found.mAP)


def data_of(world, folder):
    "The peer's own reader of the Market-1501 layout, on a rendered world."
    from clustercontrast.datasets.market1501 import Market1501

    place = Path(folder, Market1501.dataset_dir)
    if not place.exists():
        place.symlink_to(world.root.resolve(), target_is_directory=True)
    return Market1501(folder, verbose=False)


def network_of(config):
    "Our small network, as the peer's program expects one."
    model = build_model(config.arch, config.weights, seed=config.seed)
    model.num_features = model.dim
    return torch.nn.DataParallel(model)


def train_theirs(code, config, world, padding):
    "One run of the peer's program: what its network reaches, and the seconds of the whole."
    judges = []

    def judge(network):
        judges.append(Judge(network, code))
        return judges[-1]

    torch.manual_seed(config.seed)
    np.random.seed(config.seed)
    code.random.seed(config.seed)
    code.best_mAP = 0
    start, screen, pad = time.perf_counter(), sys.stdout, code.T.Pad
    with (
        tempfile.TemporaryDirectory() as folder,
        led_to_the_cpu(),
        mock.patch.object(code, 'create_model', lambda args: network_of(config)),
        mock.patch.object(code, 'get_data', lambda name, folder_: data_of(world, folder)),
        mock.patch.object(code, 'Evaluator', judge),
        mock.patch.object(code, 'Logger', lambda path: screen),
        mock.patch.object(code.T, 'Pad', lambda pixels: pad(padding)),
        mock.patch.object(
            code, 'compute_jaccard_distance', partial(code.compute_jaccard_distance, search_option=3)
        ),
    ):
        code.main_worker(arguments(config, folder))
    return judges[-1].found, time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--peer', type=os.path.abspath, required=True, help='folder of a checkout of Cluster Contrast'
    )
    parser.add_argument('--worlds', type=int, default=5, help='desk worlds of the seeds 1 to this')
    parser.add_argument('--root', default='worlds', help='folder of rendered worlds')
    args = parser.parse_args()
    runs = json.loads(RESULTS.read_text())['runs'] if RESULTS.exists() else []
    code = peer_code(args.peer)
    known = {(run['padding'], run['seed']) for run in runs}
    wanted = [
        (padding, seed)
        for padding in (default_padding(TrainConfig().height), 10)
        for seed in range(1, args.worlds + 1)
    ]
    for padding, seed in tqdm([pair for pair in wanted if pair not in known], unit='run'):
        config, world = (
            TrainConfig(method='full', seed=seed, **DESK),
            load_dataset(f'pedworld-desk-seed{seed}', root=args.root),
        )
        started = datetime.now(timezone.utc).isoformat(timespec='seconds')
        found, seconds = train_theirs(code, config, world, padding)
        runs.append(
            dict(
                study='peer_training',
                method='cluster_contrast_program',
                world=world.name,
                seed=seed,
                padding=padding,
                epochs=config.epochs,
                steps=config.epochs * config.steps_per_epoch,
                images_seen=config.epochs * config.steps_per_epoch * config.p * config.k,
                mAP=100 * float(found.mAP),
                rank1=100 * float(found.cmc[0]),
                total_s=seconds,
                device=DEVICE,
                threads=torch.get_num_threads(),
                commit=commit(),
                peer_commit=peer_commit(args.peer),
                started=started,
                versions={
                    name: version(name)
                    for name in ('torch', 'torchvision', 'numpy', 'scikit-learn', 'faiss-cpu', 'pillow')
                },
            )
        )
        write_json(RESULTS, dict(study='peer_training', runs=runs))


if __name__ == '__main__':
    main()
