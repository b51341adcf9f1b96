#!/usr/bin/env python
"""What a graphics card makes of it; each command adds its runs to figures/results/gpu.json.

    python tools/gpu.py neighbours                       exact kNN against the card's own matrix rate
    python tools/gpu.py neighbours --rivals faiss cuvs   the same beside theirs, where they are installed
    python tools/gpu.py training --data-dir DIR --peer DIR   training steps beside Cluster Contrast's loop
    python tools/gpu.py market --data-dir DIR --seconds 400  Market-1501 at 256 x 128, EfficientNet-Lite0

Times are seconds on the clock with the card idle before and after. A run that no longer fits into
`--seconds` is named as missing.
"""

import argparse
import importlib
import json
import random
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tools')]

from mcl.clustering import cluster
from mcl.config import CLUSTER_CONTRAST, FULL, MCL_PLUS, PER_SUBSET, TrainConfig
from mcl.core import write_json
from mcl.data import load_dataset
from mcl.epoch import Batches, phase_one_step
from mcl.images import ImageStore, open_stores
from mcl.loading import first
from mcl.neighbours import device_decide, device_neighbours
from mcl.prototypes import MetaPrototypes
from mcl.records import commit
from mcl.state import new_state, optimise
from mcl.training import train

RESULTS = ROOT / 'figures' / 'results' / 'gpu.json'
DEVICE = torch.device('cuda' if torch.cuda.is_available() else 'cpu')


def card() -> str:
    return torch.cuda.get_device_name() if DEVICE.type == 'cuda' else 'no graphics card'


def wait() -> None:
    if DEVICE.type == 'cuda':
        torch.cuda.synchronize()


def seconds_of(work, repeats: int = 1) -> float:
    "Seconds that one call takes, the card idle before and after."
    wait()
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    wait()
    return (time.perf_counter() - start) / repeats


def keep(run: dict) -> None:
    "Add a run to the result file."
    runs = json.loads(RESULTS.read_text())['runs'] if RESULTS.exists() else []
    started = datetime.now(timezone.utc).isoformat(timespec='seconds')
    runs.append(dict(run, device=card(), torch=torch.__version__, commit=commit(), started=started))
    write_json(RESULTS, dict(study='gpu', runs=runs))
    print(json.dumps({key: value for key, value in run.items() if key != 'config'}), flush=True)


# --- neighbours ---------------------------------------------------------------------------------------------


def matrix_rate(dtype: torch.dtype, side: int) -> float:
    "Multiplications and additions a second of a square product, in units of 10^12."
    a, b = (torch.randn(side, side, device=DEVICE, dtype=dtype) for _ in range(2))
    a @ b
    return 2 * side**3 / seconds_of(lambda: a @ b, 5) / 1e12


def made_up_features(n: int, d: int, images_each: int = 17) -> torch.Tensor:
    "Unit features of n / 17 people: a direction for each, and noise of about its length."
    generator = torch.Generator(device=DEVICE).manual_seed(0)
    centres = torch.randn(n // images_each + 1, d, device=DEVICE, generator=generator)
    who = torch.randint(len(centres), (n,), device=DEVICE, generator=generator)
    rows = torch.empty(n, d, device=DEVICE)
    for part in torch.arange(n, device=DEVICE).split(65536):
        noise = torch.randn(len(part), d, device=DEVICE, generator=generator)
        rows[part] = torch.nn.functional.normalize(centres[who[part]] + noise, dim=1)
    return rows


def faiss_search(rows: torch.Tensor, k: int) -> torch.Tensor:
    "Exact neighbours by faiss-gpu, in its own float32."
    import faiss
    import faiss.contrib.torch_utils  # noqa: F401  lets faiss read tensors on the card

    resources = faiss.StandardGpuResources()
    return faiss.knn_gpu(resources, rows, rows, k, metric=faiss.METRIC_INNER_PRODUCT)[1]


def cuvs_search(rows: torch.Tensor, k: int) -> torch.Tensor:
    "Exact neighbours by cuVS's brute force, in float32."
    from cuvs.neighbors import brute_force

    index = brute_force.build(rows, metric='inner_product')
    return torch.as_tensor(brute_force.search(index, rows, k)[1], device=rows.device)


RIVALS = dict(faiss=faiss_search, cuvs=cuvs_search)


def beside(name: str, rows: torch.Tensor, k: int) -> tuple[float, torch.Tensor]:
    "Seconds of a rival's second search, and the neighbours it found."
    search = RIVALS[name]
    search(rows[:4096], k)
    found = []
    taken = seconds_of(lambda: found.append(search(rows, k)))
    return taken, found[0].long()


def check_rivals(names: list[str]) -> None:
    "End with a line that says what to install, where a rival is missing."
    missing = [name for name in names if not find_spec(name)]
    if missing:
        sys.exit(f'{", ".join(missing)} not installed: pip install faiss-gpu-cu12, or cuvs-cu12.')
    if 'faiss' in names and not hasattr(importlib.import_module('faiss'), 'StandardGpuResources'):
        sys.exit('This faiss knows no graphics card: pip install faiss-gpu-cu12 in a fresh environment.')


def searched(rows: torch.Tensor, args, half: bool) -> dict:
    "Our search: its seconds, and whether 64 rows have the neighbours of float64."
    found = []
    taken = seconds_of(lambda: found.extend(device_neighbours(rows, args.k, step=args.step, half=half)))
    some = evenly(len(rows))
    items = device_decide(rows, rows[some], args.k)[1].cpu().numpy()
    same = bool((found[1][some.cpu()] == items).all())
    first_round = 'float16' if half else 'float32'
    return dict(first_round=first_round, seconds=taken, checked_rows=len(some), same_as_float64=same)


def searched_by(name: str, rows: torch.Tensor, args) -> dict:
    "A rival's search: its seconds, and the share of the neighbours of float64 it found for 64 rows."
    taken, items = beside(name, rows, args.k)
    some = evenly(len(rows))
    exact = device_decide(rows, rows[some], args.k)[1]
    agreed = (items[some, :, None] == exact[:, None]).any(2).double().mean().item()
    return dict(way=name, seconds=taken, checked_rows=len(some), found_of_exact=agreed)


def evenly(n: int, count: int = 64) -> torch.Tensor:
    "So many of n rows, evenly spread."
    return torch.arange(0, n, max(1, n // count), device=DEVICE)[:count]


def neighbours(args) -> None:
    check_rivals(args.rivals)
    rates = {f'rate_{name}': matrix_rate(getattr(torch, name), args.side) for name in ('float32', 'float16')}
    for n in args.sizes:
        rows, work = made_up_features(n, args.dim), 2 * n * n * args.dim / 1e12
        device_neighbours(rows[:4096], args.k, step=args.step)
        searches = [partial(searched, rows, args, half=True)]
        if work / rates['rate_float32'] <= args.longest:
            searches.append(partial(searched, rows, args, half=False))
        searches += [partial(searched_by, name, rows, args) for name in args.rivals]
        for search in searches:
            row = search()
            about = dict(measurement='neighbours', images=n, dimensions=args.dim, k=args.k)
            keep(dict(about, **row, rate=work / row['seconds'], **rates))
        if n <= 10**5:
            on_card = seconds_of(lambda rows=rows: cluster(rows, 30, 6, 0.6, check=False))
            keep(dict(measurement='cluster', images=n, dimensions=args.dim, seconds=on_card))
        del rows, searches


# --- training -----------------------------------------------------------------------------------------------


def training(args) -> None:
    from throughput import Peer, Setting, led_to_the_cpu

    sys.modules.setdefault('faiss', mock.MagicMock())  # imported by the peer's script, unused by its loop
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    samples = sorted(load_dataset(args.dataset, root=args.data_dir).train, key=lambda s: str(s.path))
    labels = np.unique([s.pid for s in samples], return_inverse=True)[1]
    camids = np.array([s.camid for s in samples])
    size, steps = (args.height, args.width), args.steps
    setting = Setting('resnet50', None, *size, args.p, args.p, steps=steps, extracted=64)
    accepting = lambda self, *_, **__: None  # noqa: E731
    placed = nullcontext() if DEVICE.type == 'cuda' else led_to_the_cpu()
    with placed, mock.patch.object(torch.utils.data.Sampler, '__init__', accepting):
        peer = Peer(setting, samples, labels, args.workers, args.peer)
        peer.memory_module.features = peer.memory_module.features.to(DEVICE)
        peer.train(5)
        found = {'peer, float32': seconds_of(partial(peer.train, steps)) / steps}
    del peer
    store = ImageStore(samples, size, workers=args.workers, progress=False)
    for name, changes in {
        'ours, float32': {},
        'ours, bfloat16': dict(precision='bfloat16'),
        'ours, bfloat16, compiled': dict(precision='bfloat16', compile=True),
        'ours, bfloat16, compiled, batches ahead': dict(precision='bfloat16', compile=True, prefetch=True),
    }.items():
        shape = dict(height=size[0], width=size[1], p=args.p, k=args.p)
        config = TrainConfig(method='full', arch='resnet50', weights=None, **shape, **changes)
        state = new_state(config, DEVICE)
        features = torch.randn(len(samples), state.model.dim, generator=torch.Generator().manual_seed(0))
        prototypes = MetaPrototypes.from_labels(features, torch.as_tensor(labels)).to(DEVICE)
        made = Batches(config, store, camids, 0, DEVICE).phase_one(labels)
        batches = first(5 + steps, made, config.prefetch)
        losses = (phase_one_step(state.network, *batch, prototypes) for batch in batches)
        bar = SimpleNamespace(update=lambda: None)
        state.model.train()
        optimise(state, losses, 5, bar)
        start = time.perf_counter()
        optimise(state, losses, steps, bar)
        wait()
        found[name] = (time.perf_counter() - start) / steps
        del state
    slowest = found['peer, float32']
    for name, taken in found.items():
        row = dict(measurement='training', way=name, seconds_a_step=taken, times_the_peer=slowest / taken)
        row.update(network='resnet50', batch=args.p**2, height=size[0], width=size[1], steps=steps)
        keep(dict(row, workers=args.workers))


# --- Market-1501 --------------------------------------------------------------------------------------------


def market(args) -> None:
    shape = dict(arch=args.arch, weights=args.weights, height=args.height, width=args.width)
    schedule = dict(epochs=args.epochs, steps_per_epoch=args.steps, decay_every=max(1, args.epochs * 2 // 5))
    batch = dict(p=args.p, k=args.p, n_subsets=4, precision='bfloat16', prefetch=True)
    recipe = {**CLUSTER_CONTRAST, **shape, **schedule, **batch}
    dataset = load_dataset(args.dataset, root=args.data_dir)
    begin = time.perf_counter()
    stores = open_stores(dataset, (args.height, args.width), progress=False)
    print(f'images decoded in {time.perf_counter() - begin:.0f} s', flush=True)
    longest = 0
    for seed in args.seeds:
        for method in (FULL, PER_SUBSET, MCL_PLUS):
            config = replace(method, **recipe, seed=seed)
            left = args.seconds - (time.perf_counter() - begin)
            if left < 1.3 * longest:
                print(f'missing: {config.method}, seed {seed} ({left:.0f} s left)', flush=True)
                continue
            start = time.perf_counter()
            run = train(config, dataset, stores=stores, device=DEVICE, progress=False)
            longest = max(longest, time.perf_counter() - start)
            keep(dict(run.record, measurement='market', on_the_clock_s=time.perf_counter() - start))


def main() -> None:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser('neighbours')
    one.set_defaults(run=neighbours)
    one.add_argument('--sizes', type=int, nargs='+', default=[100_000, 1_000_000])
    one.add_argument('--dim', type=int, default=2048)
    one.add_argument('--k', type=int, default=30)
    one.add_argument('--step', type=int, default=1024, help='queries at a time')
    one.add_argument('--side', type=int, default=8192, help='rows of the square product that gives the rate')
    one.add_argument('--rivals', nargs='*', choices=tuple(RIVALS), default=[], help='measured beside ours')
    one.add_argument('--longest', type=float, default=30, help='seconds; no float32 run above this')
    for name, run in (('training', training), ('market', market)):
        one = commands.add_parser(name)
        one.set_defaults(run=run)
        one.add_argument('--data-dir', required=True)
        one.add_argument('--dataset', default='market1501')
        one.add_argument('--height', type=int, default=256)
        one.add_argument('--width', type=int, default=128)
        one.add_argument('--p', type=int, default=16, help='labels in a batch, and images of each')
        one.add_argument('--steps', type=int, default=30 if run is training else 100)
        one.add_argument('--workers', type=int, default=16)
        one.add_argument('--peer')
        one.add_argument('--epochs', type=int, default=12)
        one.add_argument('--seconds', type=float, default=400)
        one.add_argument('--seeds', type=int, nargs='+', default=[1])
        one.add_argument('--arch', default='efficientnet_lite0')
        one.add_argument('--weights', default='imagenet')
    args = parser.parse_args()
    args.run(args)


if __name__ == '__main__':
    main()
