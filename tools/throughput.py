#!/usr/bin/env python
"""Images a second in training and in feature extraction, beside Cluster Contrast's own loop; writes
figures/results/throughput.json.

Both loops get the same images, labels, network, starting weights and batch size, in one process, and take
turns round after round.
Theirs is the code in a checkout of their repository, led to the CPU: its data loaders, its trainer, its
memory, its feature extraction.
Ours is what `mcl.training.train` calls for method `full`. What is in the file already is not measured
again.

    # both networks, one thread, some minutes
    python tools/throughput.py --peer cluster-contrast-reid
    python tools/throughput.py --peer cluster-contrast-reid --networks small
    # two threads, and two processes that decode for the peer;
    python tools/throughput.py --peer cluster-contrast-reid --threads 2 --workers 2
    # seconds of the processor then leave those two out: read the clock

"""

import argparse
import importlib.util
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
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
sys.path.insert(0, str(ROOT))
from mcl.config import TrainConfig
from mcl.core import write_json
from mcl.data import load_dataset
from mcl.epoch import Batches, phase_one_step
from mcl.images import ImageStore, ImageSubset
from mcl.losses import cluster_contrast_loss
from mcl.models import build_model, extract_features
from mcl.prototypes import MetaPrototypes
from mcl.records import commit
from mcl.state import new_state, optimise

RESULTS = ROOT / 'figures' / 'results' / 'throughput.json'
DEVICE = platform.processor() or platform.machine()


@dataclass(frozen=True)
class Setting:
    "What is trained, and how much of it in a round."

    arch: str
    weights: str | None
    height: int
    width: int
    p: int
    k: int
    steps: int  # batches of training in a round, of each way
    extracted: int  # images of feature extraction in a round, of each way


SETTINGS = {
    s.arch: s
    for s in (
        Setting('small', 'source', 64, 32, 16, 4, steps=10, extracted=512),
        Setting('resnet50', None, 256, 128, 4, 4, steps=1, extracted=32),
    )
}


class Ours:
    "The training path of this project, method `full`."

    def __init__(self, setting, samples, labels, workers, cache_bytes):
        self.config = TrainConfig(
            method='full',
            arch=setting.arch,
            weights=setting.weights,
            height=setting.height,
            width=setting.width,
            p=setting.p,
            k=setting.k,
        )
        self.setting = setting
        start = time.perf_counter()
        self.store = ImageStore(
            samples, (setting.height, setting.width), workers=workers, progress=False, cache_bytes=cache_bytes
        )
        self.opening_s = time.perf_counter() - start
        self.state = new_state(self.config)
        dim, generator = self.state.model.dim, torch.Generator().manual_seed(0)
        self.prototypes = MetaPrototypes.from_labels(
            torch.randn(len(samples), dim, generator=generator),
            torch.as_tensor(labels),
            momentum=self.config.momentum,
            temperature=self.config.temperature,
        )
        self.batches = Batches(self.config, self.store, np.array([s.camid for s in samples]), 0).phase_one(
            labels
        )
        self.images = next(self.batches)[0]

    def train(self, steps):
        self.state.model.train()
        with tqdm(disable=True) as bar:
            optimise(
                self.state,
                (phase_one_step(self.state.network, *batch, self.prototypes) for batch in self.batches),
                steps,
                bar,
            )

    def features(self):
        return extract_features(
            self.state.model,
            ImageSubset(self.store, range(self.setting.extracted)),
            batch_size=self.setting.p * self.setting.k,
            progress=False,
        )

    def data(self, steps):
        for _ in range(steps):
            next(self.batches)

    def memory(self, features, labels):
        cluster_contrast_loss(features, labels, self.prototypes).backward()
        self.prototypes.update(features.detach(), labels)

    model = property(lambda self: self.state.model)
    optimizer = property(lambda self: self.state.optimizer)


class Peer:
    "Cluster Contrast's loop around the same network."

    def __init__(self, setting, samples, labels, workers, checkout):
        self.setting, config = setting, TrainConfig()
        self.code = peer_code(checkout)
        self.model = build_model(setting.arch, setting.weights, seed=config.seed).cuda()
        network = torch.nn.DataParallel(self.model)
        self.network = network
        each_its_group = [
            {'params': [p]} for p in network.parameters() if p.requires_grad
        ]  # as the peer's main_worker has it
        self.optimizer = torch.optim.Adam(
            each_its_group, lr=config.learning_rate, weight_decay=config.weight_decay
        )
        generator = torch.Generator().manual_seed(0)
        memory = self.code.ClusterMemory(
            self.model.dim, int(labels.max()) + 1, temp=config.temperature, momentum=config.momentum
        ).cuda()
        memory.features = torch.nn.functional.normalize(
            torch.randn(int(labels.max()) + 1, self.model.dim, generator=generator), dim=1
        )
        self.trainer, self.memory_module = self.code.ClusterContrastTrainer(network, memory), memory
        rows = [(str(s.path), int(label), s.camid) for s, label in zip(samples, labels)]
        images, size, batch = (
            SimpleNamespace(train=rows, images_dir=None),
            (setting.height, setting.width),
            setting.p * setting.k,
        )
        self.loader = self.code.get_train_loader(
            None, images, *size, batch, workers, setting.k, None, trainset=rows
        )
        self.tests = self.code.get_test_loader(
            images, *size, batch, workers, testset=rows[: setting.extracted]
        )
        self.loader.new_epoch()
        self.images = self.loader.next()[0]

    def train(self, steps):
        self.trainer.train(0, self.loader, self.optimizer, print_freq=steps + 1, train_iters=steps)

    def features(self):
        return torch.stack(
            list(self.code.extract_features(self.network, self.tests, print_freq=10**9)[0].values())
        )

    def data(self, steps):
        for _ in range(steps):
            self.loader.next()

    def memory(self, features, labels):
        self.memory_module(features, labels).backward()


def peer_code(checkout):
    "The peer's training script as a module; its loaders, trainer and memory are names in it."
    script = Path(checkout, 'examples', 'cluster_contrast_train_usl.py')
    if not script.is_file():
        raise FileNotFoundError(
            f'{script} is not there: give --peer a checkout of '
            'https://github.com/alibaba/cluster-contrast-reid'
        )
    sys.path.insert(0, str(checkout))
    spec = importlib.util.spec_from_file_location('cluster_contrast_train_usl', script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def led_to_the_cpu():
    """`.cuda()` of the peer's code does nothing; its samplers may call the constructor that
    torch.utils.data.Sampler had.
    """
    same, accepting = lambda self, *_, **__: self, lambda self, *_: None
    with (
        mock.patch.object(torch.Tensor, 'cuda', same),
        mock.patch.object(torch.nn.Module, 'cuda', same),
        mock.patch.object(torch.utils.data.Sampler, '__init__', accepting),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings('ignore', message='.*pin_memory.*')
        yield


def network_steps(way, steps):
    "Forward, backward and optimiser on a batch that is there already."
    way.model.train()
    direction = torch.ones(len(way.images), way.model.dim)
    for _ in range(steps):
        way.optimizer.zero_grad()
        (way.model(way.images) * direction).sum().backward()
        way.optimizer.step()


def memory_steps(way, steps, labels):
    "Loss, its gradient and the update of the centroids, on features that are there already."
    features = torch.nn.functional.normalize(torch.randn(len(way.images), way.model.dim), dim=1)
    for _ in range(steps):
        way.memory(features.clone().requires_grad_(), labels)


def jobs_of(setting, labels):
    "What is timed: name, function of a way, number of batches."
    batch, steps = setting.p * setting.k, setting.steps
    some = torch.as_tensor(
        np.repeat(np.random.default_rng(0).permutation(labels.max() + 1)[: setting.p], setting.k)
    )
    return {
        'train': (lambda way: way.train(steps), steps),
        'features': (lambda way: way.features(), setting.extracted / batch),
        'data': (lambda way: way.data(steps), steps),
        'network': (lambda way: network_steps(way, steps), steps),
        'memory': (lambda way: memory_steps(way, steps, some), steps),
    }


def take_turns(ways, jobs, rounds):
    """Seconds on the clock, and of this process's processor, {job: {way: one a batch for each round}}.

    Every round the ways run right after each other, in turned order; a first round warms up.
    """
    clock, busy = ({job: {name: [] for name in ways} for job in jobs} for _ in range(2))
    for number in range(rounds + 1):
        for job, (run, batches) in jobs.items():
            for name in list(ways) if number % 2 else list(ways)[::-1]:
                start, start_busy = time.perf_counter(), time.process_time()
                run(ways[name])
                if number:
                    clock[job][name].append((time.perf_counter() - start) / batches)
                    busy[job][name].append((time.process_time() - start_busy) / batches)
        print(
            f'round {number} of {rounds}',
            {job: {name: round(s[-1], 4) for name, s in by.items()} for job, by in clock.items() if number},
            flush=True,
        )
    return clock, busy


def agreement(ways):
    """Mean cosine of the features that both ways extract from the same images before any training; they
    resize images differently.
    """
    ours, theirs = ways['ours'].features(), ways['peer'].features()
    return float((ours * theirs).sum(1).mean())


def peer_commit(checkout):
    "Commit of the peer's checkout, or None where it is a plain folder."
    answer = subprocess.run(
        ['git', '-C', str(checkout), 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True
    )
    return answer.stdout.strip() or None if Path(checkout, '.git').exists() else None


def measure(setting, dataset, args):
    "One run: both loops with one network."
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    samples = sorted(dataset.train, key=lambda s: str(s.path))
    labels = np.unique([s.pid for s in samples], return_inverse=True)[1]
    started = datetime.now(timezone.utc).isoformat(timespec='seconds')
    ours = partial(Ours, setting, samples, labels, args.threads)
    with led_to_the_cpu():
        ways = {
            'ours': ours(4 * 2**30),
            'ours, decoding anew': ours(0),
            'peer': Peer(setting, samples, labels, args.workers, args.peer),
        }
        alike = agreement(ways)
        clock, busy = take_turns(ways, jobs_of(setting, labels), args.rounds)
    return dict(
        study='throughput',
        network=setting.arch,
        height=setting.height,
        width=setting.width,
        batch=setting.p * setting.k,
        k=setting.k,
        steps=setting.steps,
        extracted=setting.extracted,
        rounds=args.rounds,
        world=dataset.name,
        images=len(samples),
        n_clusters=int(labels.max()) + 1,
        seconds_per_batch=clock,
        processor_seconds_per_batch=busy,
        decoding_once_s=ways['ours'].opening_s,
        feature_agreement=alike,
        threads=torch.get_num_threads(),
        peer_workers=args.workers,
        commit=commit(),
        peer_commit=peer_commit(args.peer),
        device=DEVICE,
        versions={name: version(name) for name in ('torch', 'torchvision', 'numpy', 'pillow')},
        started=started,
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--peer', type=os.path.abspath, required=True, help='folder of a checkout of Cluster Contrast'
    )
    parser.add_argument('--networks', nargs='*', choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--threads', type=int, default=1, help='of torch, in both loops, and of our decoding')
    parser.add_argument(
        '--workers', type=int, default=0, help="processes that load images for the peer, beside its own"
    )
    parser.add_argument('--world', default='pedworld-desk', help='whose training images are used')
    parser.add_argument(
        '--root', help='folder of rendered worlds; without it the world is rendered into a temporary folder'
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    runs = json.loads(RESULTS.read_text())['runs'] if RESULTS.exists() else []
    key = lambda run: tuple(run[name] for name in ('network', 'world', 'threads', 'peer_workers', 'device'))
    known, what = set(map(key, runs)), (args.world, args.threads, args.workers, DEVICE)
    todo = [SETTINGS[name] for name in args.networks if (name, *what) not in known]
    with tempfile.TemporaryDirectory() as folder:
        dataset = load_dataset(args.world, root=args.root or folder) if todo else None
        for setting in todo:
            runs.append(measure(setting, dataset, args))
            write_json(RESULTS, dict(study='throughput', runs=runs))


if __name__ == '__main__':
    main()
