#!/usr/bin/env python
"""Which part of Cluster Contrast's program makes it differ from our `full`? Our training on Market-1501, with
single parts exchanged for those of a checkout of it; writes figures/results/real/peer_parts_market1501.json.

`sampler` draws the batches with their RandomMultipleGallerySampler, `erasing` erases with their
RandomErasing, and `both` does both. All else is `mcl reproduce --study market1501`, `full`. What is in the
file already is not trained again.

    python tools/peer_parts.py --peer cluster-contrast-reid --data-dir /data --seeds 1 2 3
"""

import argparse
import json
import os
import random
import sys
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from tqdm.auto import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tools')]
from throughput import led_to_the_cpu, peer_code, peer_commit

import mcl.epoch
from mcl.config import DESK, TrainConfig
from mcl.core import write_json
from mcl.data import load_dataset
from mcl.images import MEAN, augment_batch, normalise, open_stores
from mcl.training import train
from mcl.variants import MARKET_LENGTH

RESULTS = ROOT / 'figures' / 'results' / 'real' / 'peer_parts_market1501.json'


class TheirSampler:
    "Stands where `IdentitySampler` stands: batches as the peer's DataLoader cuts them from its sampler."

    def __init__(self, code, labels, p, k, camids, seed):
        kept = np.flatnonzero(labels >= 0)
        rows = [(None, int(labels[place]), int(camids[place])) for place in kept]
        self.kept, self.size, self.sampler = kept, p * k, code.RandomMultipleGallerySampler(rows, k)

    def forever(self):
        "Batches of image numbers without end; what is left of a pass is dropped."
        while True:
            drawn = self.kept[list(self.sampler)]
            whole = len(drawn) // self.size * self.size
            yield from drawn[:whole].reshape(-1, self.size)


def with_their_erasing(erase, store, indices, generator, device, offset=0):
    "Stands where `augmented_images` stands: our crop and mirroring, then the peer's erasing."
    images = augment_batch(store.batch(np.asarray(indices)), generator, erasing=0)
    images = normalise(images.to(device))
    return torch.stack([erase(image) for image in images]).contiguous(memory_format=torch.channels_last)


@contextmanager
def parts_of(code, variant):
    "`mcl.epoch` with the parts of the peer that the variant names."
    erase = code.T.RandomErasing(probability=0.5, mean=MEAN)
    exchanges = {
        'sampler': dict(IdentitySampler=partial(TheirSampler, code)),
        'erasing': dict(augmented_images=partial(with_their_erasing, erase)),
    }
    with ExitStack() as stack:
        stack.enter_context(led_to_the_cpu())
        for name, exchange in exchanges.items():
            if variant in (name, 'both'):
                stack.enter_context(mock.patch.multiple(mcl.epoch, **exchange))
        yield


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--peer', type=os.path.abspath, required=True, help='folder of a checkout of Cluster Contrast'
    )
    parser.add_argument('--data-dir', required=True, help='where Market-1501 lies')
    parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3])
    parser.add_argument('--variants', nargs='+', default=['sampler', 'erasing', 'both'])
    parser.add_argument('--threads', type=int, default=1, help='of torch')
    parser.add_argument('--results', type=Path, default=RESULTS, help='the file to write')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    runs = json.loads(args.results.read_text())['runs'] if args.results.exists() else []
    known = {(run['variant'], run['seed']) for run in runs}
    code = peer_code(args.peer)
    market = load_dataset('market1501', root=args.data_dir)
    settings = {**DESK, **MARKET_LENGTH}
    usual = TrainConfig()
    stores = open_stores(market, (usual.height, usual.width))
    for seed, variant in tqdm([*product(args.seeds, args.variants)], unit='run'):
        if (variant, seed) in known:
            continue
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        with parts_of(code, variant):
            run = train(TrainConfig(method='full', seed=seed, **settings), market, stores=stores)
        row = dict(run.record, variant=variant, peer_commit=peer_commit(args.peer), study=args.results.stem)
        runs.append(row)
        write_json(args.results, dict(study=args.results.stem, runs=runs))


if __name__ == '__main__':
    main()
