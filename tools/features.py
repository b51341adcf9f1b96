#!/usr/bin/env python
"""Images a second of a network that only looks, in several ways; whether its features rank as well; and what
that saves in an epoch of training. Writes figures/results/features.json.

All ways take turns, round after round, on the same images, so their ratios hold on a busy machine too: of
each, the best round counts. ONNX Runtime and OpenVINO join in where they are installed, OpenVINO in whole
numbers of eight bits where NNCF is, which chooses their scales from images without a label, and torch.compile
with frozen weights where there is a C++ compiler.

    python tools/features.py                        # rates, on random images: a minute
    python tools/features.py --data-dir /data       # and mAP and epochs on Market-1501's photographs
    python tools/features.py --data-dir /data --weights runs/mine/model.safetensors

A measurement that is in the file already is not made again, unless --again. Processors with and without
instructions for bfloat16 have measurements of their own, and so has each number of threads.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, replace
from datetime import datetime, timezone
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from shutil import which

import numpy as np
import torch
from tqdm.auto import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from mcl.config import MCL_PLUS, RECIPES
from mcl.core import write_json
from mcl.data import load_dataset, read_ids
from mcl.epoch import Batches, make_plan, run_epoch
from mcl.evaluation import evaluate
from mcl.images import ImageStore, Stores, normalise
from mcl.inference import PRECISIONS, compiled, fast_network, has_bfloat16, openvino_alone, read_network
from mcl.loading import DiskStore
from mcl.models import build_model, extract_features
from mcl.records import installed, provenance
from mcl.state import new_state

RESULTS = ROOT / 'figures' / 'results' / 'features.json'
NETWORKS = {'small': ('source', (64, 32), 256), 'efficientnet_lite0': ('imagenet', (128, 64), 128)}
OWN_WAYS = [way for way in PRECISIONS if 'openvino' not in way or find_spec('openvino')]
CALIBRATION = 300  # images that int8 chooses its scales from
EPOCHS = {
    'plain': {},
    'fast features': dict(feature_precision='fused_bfloat16'),
    'features by OpenVINO': dict(feature_precision='openvino_bfloat16'),
    'fast features, training in bfloat16': dict(feature_precision='fused_bfloat16', precision='bfloat16'),
    'the same, one other window annotated': dict(feature_precision='fused_bfloat16', precision='bfloat16',
                                                 annotated_subsets=1),
}
if not find_spec('openvino'):
    del EPOCHS['features by OpenVINO']


class ProcessorWatch:
    "Seconds of the processor by account, in place of `Stopwatch`: other programs do not count."

    def __init__(self):
        self.seconds, self.account, self.start = {}, None, 0.0

    def __call__(self, account):
        self.account = account
        return self

    def __enter__(self):
        self.start = time.process_time()

    def __exit__(self, *_):
        spent = time.process_time() - self.start
        self.seconds[self.account] = self.seconds.get(self.account, 0) + spent


def take_turns(ways: dict, rounds: int) -> tuple:
    "Least seconds of the clock and of the processor of each way, after a first round that warms up."
    clock, busy = ({name: [] for name in ways} for _ in range(2))
    for number in range(rounds + 1):
        for name in list(ways) if number % 2 else list(ways)[::-1]:
            start, start_busy = time.perf_counter(), time.process_time()
            ways[name]()
            if number:
                clock[name].append(time.perf_counter() - start)
                busy[name].append(time.process_time() - start_busy)
    return tuple({name: min(found) for name, found in times.items()} for times in (clock, busy))


def in_onnxruntime(folded, images, folder, threads) -> dict:
    "The folded network in ONNX Runtime, where it is installed: name -> function of no argument."
    if not (find_spec('onnx') and find_spec('onnxruntime')):
        return {}
    import onnxruntime

    file, wanted = Path(folder) / 'network.onnx', {'x': images.numpy()}
    names = dict(input_names=['x'], output_names=['y'], dynamic_axes={'x': {0: 'b'}, 'y': {0: 'b'}})
    torch.onnx.export(folded, (images,), str(file), dynamo=False, **names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=['CPUExecutionProvider'])
    return {'onnxruntime': lambda: torch.from_numpy(session.run(None, wanted)[0])}


@torch.inference_mode(False)
@torch.no_grad()
def in_torch_compile(model, images) -> dict:
    "The folded network compiled by torch with frozen weights, where there is a C++ compiler."
    if not which('g++'):
        return {}
    frozen = dict(mode=None, options={'freezing': True})
    ways = {'compiled': 'fused', 'compiled_bfloat16': 'fused_bfloat16'}
    programs = {way: torch.compile(fast_network(model, fused), **frozen) for way, fused in ways.items()}
    calls = {way: partial(without_gradients, program, images.clone()) for way, program in programs.items()}
    for call in calls.values():
        call()
    return calls


@torch.inference_mode(False)
@torch.no_grad()
def without_gradients(program, images):
    "What a compiled network makes of ordinary images; it was compiled outside inference mode."
    return program(images)


def in_eight_bits(model, images) -> dict:
    "The network in int8, where NNCF is installed, which chooses its scales from images (n, 3, h, w)."
    if not (find_spec('openvino') and find_spec('nncf')):
        return {}
    openvino_alone()
    import nncf

    fast, size = fast_network(model, 'openvino'), tuple(images.shape[-2:])
    some = [image[None].contiguous().numpy() for image in images[:CALIBRATION]]
    network = read_network(fast.backbone.folded, size)
    network = nncf.quantize(network, nncf.Dataset(some), subset_size=len(some))
    rest = 'bfloat16' if has_bfloat16() else 'float32'
    fast.backbone.programs[size] = compiled(network, rest)
    return {'openvino_int8': fast}


def networks_of(model, images) -> dict:
    "Every way to run a network that stays in Python: name -> network."
    return {way: fast_network(model, way) for way in OWN_WAYS} | in_eight_bits(model, images)


def common(measurement, started) -> dict:
    "What every run in the file tells."
    packages = {name: installed(name) for name in ('timm', 'onnxruntime', 'openvino', 'nncf')}
    made = provenance('cpu')
    made['versions'].update(packages)
    return dict(study='features', measurement=measurement, has_bfloat16=has_bfloat16(), started=started,
                **made)


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec='seconds')


@torch.inference_mode()
def rate(arch, args) -> dict:
    "Images a second of each way to run one network, and how its features agree with the plain ones."
    weights, size, batch = NETWORKS[arch]
    started, model = now(), build_model(arch, weights).eval().to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8, generator=generator)
    images = normalise(pixels).contiguous(memory_format=torch.channels_last)
    networks = networks_of(model, images)
    ways = {way: (lambda network=network: network(images)) for way, network in networks.items()}
    with tempfile.TemporaryDirectory() as folder:
        ways.update(in_onnxruntime(networks['fused'], images, folder, args.threads))
        if arch == 'small':    # a deeper network took minutes to compile in this way, and was given up
            ways.update(in_torch_compile(model, images))
        expected = ways['plain']()
        cosines = {way: float((run().float() * expected).sum(1).min()) for way, run in ways.items()}
        clock, busy = take_turns(ways, args.rounds)
    found = [
        dict(way=way, images_per_s=batch / busy[way], times_plain=busy['plain'] / busy[way],
             clock_images_per_s=batch / clock[way], least_cosine=cosines[way])
        for way in ways
    ]
    return dict(common('rate', started), network=arch, height=size[0], width=size[1], batch=batch,
                rounds=args.rounds, images='random', ways=found)


def open_part(samples, size, args, step=1):
    "Every `step`-th image of a split, decoded once into the cache."
    return DiskStore(samples[::step], size, args.cache, progress=False)


def accuracy(arch, name, weights, step, dataset, args) -> dict:
    "mAP on Market-1501 with the plain and the fast networks; int8 sees some training images beforehand."
    size, started = NETWORKS[arch][1], now()
    model = build_model(arch, weights).eval()
    stores = query_and_gallery(dataset, size, args, step)
    seen = open_part(dataset.train, size, args, step=len(dataset.train) // CALIBRATION)
    some = normalise(seen.batch(list(range(len(seen)))))
    found, features = [], {}
    for way, network in networks_of(model, some).items():
        parts = [extract_features(network, store, progress=False) for store in (stores.query, stores.gallery)]
        metrics = evaluate(*parts, stores.query.samples, stores.gallery.samples).percentages()
        features[way] = torch.cat(parts)
        cosines = (features[way] * features['plain']).sum(1)
        found.append(dict(way=way, mAP=metrics['mAP'], rank1=metrics['rank1'],
                          least_cosine=float(cosines.min()), mean_cosine=float(cosines.mean())))
    for row in found:
        row['mAP_difference'] = row['mAP'] - found[0]['mAP']
    return dict(common('accuracy', started), network=arch, weights=name, height=size[0], width=size[1],
                world=dataset.name, queries=len(stores.query), gallery=len(stores.gallery), ways=found)


def query_and_gallery(dataset, size, args, step):
    "Every `step`-th query and gallery image."
    parts = (open_part(split, size, args, step) for split in (dataset.query, dataset.gallery))
    return Stores(None, *parts)


def loading(dataset, args) -> dict:
    "Features of the same photographs from memory, from the file on disk, and decoded anew."
    started, size, some = now(), (64, 32), dataset.train[: args.images]
    stores = {'decoded anew': ImageStore(some, size, cache_bytes=0, workers=args.threads, progress=False),
              'from disk': DiskStore(some, size, args.cache, progress=False),
              'from memory': ImageStore(some, size, progress=False)}
    network = fast_network(build_model('small'))
    ways = {name: (lambda store=store: extract_features(network, store, progress=False))
            for name, store in stores.items()}
    clock, busy = take_turns(ways, args.rounds)
    found = [dict(way=way, images_per_s=len(some) / busy[way], clock_images_per_s=len(some) / clock[way])
             for way in ways]
    return dict(common('loading', started), network='small', height=64, width=32, world=dataset.name,
                images=len(some), rounds=args.rounds, ways=found)


def batch_seconds(config, store, camids) -> float:
    "Seconds of the processor for the batches of an epoch alone, without a network."
    labels = np.arange(len(store)) // 16
    start = time.process_time()
    for _ in islice(Batches(config, store, camids, 0).phase_one(labels), config.steps_per_epoch):
        pass
    return time.process_time() - start


def one_epoch(config, store, camids, pids) -> dict:
    "Seconds of the processor for one epoch, in all and by account."
    state, plan = new_state(config), make_plan(config, store.samples)
    state.watch = ProcessorWatch()
    start = time.process_time()
    with tqdm(disable=True) as bar:
        run_epoch(state, config, plan, store, camids, pids, bar)
    return dict(total_s=time.process_time() - start, **{f'{k}_s': v for k, v in state.watch.seconds.items()})


def epochs(method, dataset, args) -> dict:
    "Whole epochs at equal steps: as they were, with fast features, and with more of the machine."
    started, store = now(), open_part(dataset.train, (64, 32), args, step=4)
    camids, pids = read_ids(store.samples)
    config = replace(method, **dict(RECIPES['desk'], steps_per_epoch=args.steps))
    best = {}
    for number in range(args.epoch_rounds):
        for way in list(EPOCHS) if number % 2 else list(EPOCHS)[::-1]:
            spent = one_epoch(replace(config, **EPOCHS[way]), store, camids, pids)
            best[way] = min(best.get(way, spent), spent, key=lambda found: found['total_s'])
            print(method.method, way, {name: round(value, 2) for name, value in spent.items()}, flush=True)
    found = [dict(way=way, times_plain=best['plain']['total_s'] / best[way]['total_s'], **best[way])
             for way in EPOCHS]
    return dict(common('epoch', started), network='small', method=method.method, world=dataset.name,
                images=len(store), steps=args.steps, rounds=args.epoch_rounds, ways=found,
                batches_s=min(batch_seconds(config, store, camids) for _ in range(3)), config=asdict(config))


def todo(args) -> list:
    "What to measure: (key, function), in order."
    wanted = [(('rate', arch), lambda arch=arch: rate(arch, args)) for arch in args.networks]
    if args.data_dir is None:
        return wanted
    dataset = load_dataset('market1501', root=args.data_dir, progress=False)
    starts = [('small', 'source', 'source', 2), ('efficientnet_lite0', 'imagenet', 'imagenet', 4)]
    if args.weights:
        starts.insert(0, ('small', 'trained', args.weights, 2))
    wanted.append((('epoch', 'small', 'mcl_plus'), partial(epochs, MCL_PLUS, dataset, args)))
    wanted.append((('loading', 'small'), partial(loading, dataset, args)))
    for arch, name, weights, step in starts:
        if arch in args.networks:
            job = partial(accuracy, arch, name, weights, step, dataset, args)
            wanted.append((('accuracy', arch, name), job))
    return wanted


def measured() -> list:
    "What the file holds."
    return json.loads(RESULTS.read_text())['runs'] if RESULTS.exists() else []


def key_of(run) -> tuple:
    "What tells a measurement from the others."
    names = ('measurement', 'network', 'weights', 'method')
    return tuple(run[name] for name in names if name in run) + (run['has_bfloat16'], run['threads'])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--data-dir', help='folder of Market-1501; without it only rates are measured')
    parser.add_argument('--weights', help='a trained small network, whose mAP is compared too')
    parser.add_argument('--networks', nargs='*', choices=list(NETWORKS), default=list(NETWORKS))
    kinds = ('rate', 'epoch', 'loading', 'accuracy')
    parser.add_argument('--measurements', nargs='*', choices=kinds, default=kinds)
    parser.add_argument('--again', action='store_true', help='measure what is in the file, and replace it')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--threads', type=int, default=1, help='of every program')
    parser.add_argument('--images', type=int, default=1024, help='photographs that are loaded in three ways')
    parser.add_argument('--steps', type=int, default=25, help='in an epoch, on every fourth photograph')
    parser.add_argument('--epoch-rounds', type=int, default=2)
    parser.add_argument('--cache', help='folder for decoded images; default: a temporary one')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        args.cache = args.cache or folder
        for kind, job in todo(args):
            key = (*kind, has_bfloat16(), args.threads)
            known = key in map(key_of, measured()) and not args.again
            if key[0] not in args.measurements or known:
                continue
            run = job()
            print(key, *(f'\n  {row}' for row in run['ways']), flush=True)
            others = [other for other in measured() if key_of(other) != key]
            write_json(RESULTS, dict(study='features', runs=[*others, run]))


if __name__ == '__main__':
    main()
