"""What a long run may meet: interruption, stale folders, ids that must not be read, odd worlds."""

import collections
import dataclasses
import itertools
import json
import multiprocessing
import os
import random
import signal
import threading
import time

import numpy as np
import pytest
import torch
from tqdm import tqdm

from mcl import epoch
from mcl.config import METHOD_SETTINGS, METHODS, TrainConfig, from_json, to_json
from mcl.data import load_dataset
from mcl.images import Stores
from mcl.models import build_model, save_weights
from mcl.pedworld import render
from mcl.training import train
from mcl.world import World

SHORT = dict(epochs=2, steps_per_epoch=4, p=6, n_subsets=2, k1=10, k2=3)


def weights_of(run):
    return run.model.state_dict()


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(weights_of(a).values(), weights_of(b).values()))


@pytest.mark.parametrize('method', METHODS)
def test_every_method_ends_in_a_complete_record(method, tiny, tiny_stores, tmp_path):
    record = train(
        dataclasses.replace(METHOD_SETTINGS[method], **SHORT),
        tiny,
        tmp_path / 'run',
        stores=tiny_stores,
        progress=False,
    ).record
    adam = torch.load(tmp_path / 'run' / 'checkpoint.pt', weights_only=True)['optimizer']['state']
    assert {int(s['step']) for s in adam.values()} == {record['steps']}, 'steps are those the optimiser took'
    needed = (
        'world method fraction seed epochs steps images_seen mAP rank1 rank5 rank10 mINP clustering_s '
        'clustered_images '
        'clustering_peak_mib train_s total_s n_clusters outlier_rate device threads versions started'
    ).split()
    assert not [key for key in needed if record.get(key) is None]
    assert 0 <= record['mAP'] <= 100
    json.dumps(record, allow_nan=False)


def test_equal_steps_and_images_for_all_methods_but_subset(tiny, tiny_stores):
    seen = {
        m: train(
            dataclasses.replace(METHOD_SETTINGS[m], **SHORT), tiny, stores=tiny_stores, progress=False
        ).record['images_seen']
        for m in METHODS
    }
    assert len({seen[m] for m in METHODS if m != 'subset'}) == 1
    assert seen['subset'] < seen['mcl'] == seen['mcl_plus']


@pytest.mark.parametrize('method', [m for m in METHODS if m != 'supervised'])
def test_no_method_reads_training_ids(method, tiny, tiny_stores):
    shuffled = np.random.default_rng(0).permutation([s.pid for s in tiny.train])
    samples = [dataclasses.replace(s, pid=int(pid)) for s, pid in zip(tiny_stores.train.samples, shuffled)]
    blind_store = WithSamples(tiny_stores.train, samples)
    config = dataclasses.replace(METHOD_SETTINGS[method], **SHORT)
    seen = train(config, tiny, stores=tiny_stores, progress=False)
    blind = train(
        config,
        dataclasses.replace(tiny, train=samples),
        stores=Stores(blind_store, tiny_stores.query, tiny_stores.gallery),
        progress=False,
    )
    assert same_weights(seen, blind)
    assert seen.record['mAP'] == blind.record['mAP']


class WithSamples:
    "A store whose images carry other samples."

    def __init__(self, store, samples):
        self.store, self.samples = store, samples

    def __len__(self):
        return len(self.store)

    def batch(self, indices):
        return self.store.batch(indices)


def test_training_without_any_id_or_query(tiny, tiny_stores):
    unlabelled = WithSamples(
        tiny_stores.train, [dataclasses.replace(s, pid=None) for s in tiny_stores.train.samples]
    )
    run = train(TrainConfig(**SHORT), tiny, stores=Stores(unlabelled, None, None), progress=False)
    assert 'mAP' not in run.record and run.record['pseudo_label_ari'] is None and run.record['n_clusters'] > 0
    with pytest.raises(ValueError, match='person id'):
        train(
            TrainConfig(method='supervised', **SHORT),
            tiny,
            stores=Stores(unlabelled, None, None),
            progress=False,
        )


def test_resume_gives_the_same_numbers_bit_for_bit(tiny, tiny_stores, tmp_path):
    config = TrainConfig(**{**SHORT, 'epochs': 3})
    whole = train(config, tiny, stores=tiny_stores, progress=False)

    class Stop(Exception):
        pass

    class StopsLate(WithSamples):
        left = 16

        def batch(self, indices):
            self.left -= 1
            if not self.left:
                raise Stop
            return self.store.batch(indices)

    with pytest.raises(Stop):
        train(
            config,
            tiny,
            tmp_path,
            stores=Stores(StopsLate(tiny_stores.train, tiny.train), tiny_stores.query, tiny_stores.gallery),
            progress=False,
        )
    assert (tmp_path / 'checkpoint.pt').exists() and not (tmp_path / 'record.json').exists()
    resumed = train(config, tiny, tmp_path, resume=True, stores=tiny_stores, progress=False)
    assert same_weights(whole, resumed)
    assert whole.record['mAP'] == resumed.record['mAP']


def test_a_batch_in_parts_costs_images_nothing_and_resumes_bit_for_bit(tiny, tiny_stores, tmp_path):
    config = TrainConfig(**SHORT, batch_parts=3)
    whole = train(config, tiny, tmp_path / 'whole', stores=tiny_stores, progress=False)
    plain = train(TrainConfig(**SHORT), tiny, stores=tiny_stores, progress=False)
    assert whole.record['images_seen'] == plain.record['images_seen']
    assert not same_weights(whole, plain)    # batch norm looks at a part
    first = dataclasses.replace(config, epochs=1)
    train(first, tiny, tmp_path / 'run', stores=tiny_stores, progress=False)
    saved = torch.load(tmp_path / 'run' / 'checkpoint.pt', weights_only=True)
    torch.save(dict(saved, config=to_json(config)), tmp_path / 'run' / 'checkpoint.pt')
    resumed = train(config, tiny, tmp_path / 'run', resume=True, stores=tiny_stores, progress=False)
    assert same_weights(whole, resumed)


def test_a_batch_too_large_for_memory_names_the_settings(tiny, tiny_stores, tmp_path, monkeypatch):
    def too_large(*_, **__):
        raise torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 MiB.')

    monkeypatch.setattr(epoch, 'phase_one_step', too_large)
    with pytest.raises(MemoryError, match='p=6 x k=4 images of height=64 x width=32: raise batch_parts'):
        train(TrainConfig(**SHORT), tiny, tmp_path, stores=tiny_stores, progress=False)
    assert not (tmp_path / 'record.json').exists()


def test_a_finished_run_is_not_overwritten(tiny, tiny_stores, tmp_path):
    config = TrainConfig(**SHORT)
    train(config, tiny, tmp_path, stores=tiny_stores, progress=False)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match='resume'):
        train(config, tiny, tmp_path, stores=tiny_stores, progress=False)
    with pytest.raises(ValueError, match='eps'):
        train(
            dataclasses.replace(config, eps=0.5),
            tiny,
            tmp_path,
            resume=True,
            stores=tiny_stores,
            progress=False,
        )
    assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir()}


KILLS = int(os.environ.get('MCL_KILLS', 6))
KILLED = TrainConfig(epochs=3, steps_per_epoch=2, p=3, k=2, n_subsets=2, k1=6, k2=2, min_samples=2)
STAGES = [
    (module, name, after)
    for module, name in ((torch, 'save'), (os, 'fsync'), (os, 'replace'))
    for after in (True, False)
]


def finish(world, folder, trap):
    """Train to the end, from the checkpoint in the folder if there is one.

    A trap (place in STAGES, n) kills the process when it writes its n-th file.
    """
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own lock would outlive the process
    if trap:
        module, name, after = STAGES[trap[0]]
        setattr(module, name, fatal(getattr(module, name), trap[1], after))
    train(KILLED, load_dataset(world), folder, resume=True, progress=False)


def fatal(function, number, after):
    "A function whose call of this number kills the process, before or after it has done its work."
    calls = itertools.count(1)

    def work(*arguments, **named):
        last = next(calls) == number
        if last and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **named)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return work


def started(world, folder, trap=None):
    "A process that does nothing but `finish`; libraries are loaded once for all of them."
    server = multiprocessing.get_context('forkserver')
    server.set_forkserver_preload(['mcl.training'])
    process = server.Process(target=finish, args=(world, folder, trap))
    process.start()
    return process


def epochs_in(folder):
    "Epochs in the checkpoint of a run; fails where it is not whole."
    if not (folder / 'checkpoint.pt').exists():
        return 0
    saved = torch.load(folder / 'checkpoint.pt', weights_only=True)
    assert from_json(saved['config']) == KILLED
    return len(saved['history'])


def outcome(folder):
    "What must not depend on interruptions: weights, and metrics of the run and of every epoch."
    record, history = (json.loads((folder / name).read_text()) for name in ('record.json', 'history.json'))
    measured = (
        'mAP',
        'rank1',
        'rank5',
        'rank10',
        'mINP',
        'n_clusters',
        'outlier_rate',
        'pseudo_label_ari',
        'steps',
    )
    rows = [
        {key: row[key] for key in ('epoch', 'loss', 'polish_loss', 'n_clusters', 'outlier_rate', 'steps')}
        for row in history
    ]
    return {key: record[key] for key in measured}, rows, (folder / 'model.safetensors').read_bytes()


def test_killed_at_random_moments_a_run_ends_as_if_nothing_had_happened(tmp_path):
    """Every other kill while a file is written, the others by the clock.

    `MCL_KILLS=60 pytest -s -k killed` kills more often, and says where.
    """
    world = render(World(8, 8, 3, seed=1, size=(64, 32)), tmp_path / 'world', progress=False)
    rng, places, attempts, runs, longest = random.Random(0), collections.Counter(), 0, 0, 1.0
    whole = started(str(world), tmp_path / 'whole')
    whole.join()
    expected = outcome(tmp_path / 'whole')
    while sum(places.values()) < KILLS:
        folder, runs, epochs = tmp_path / f'run{runs}', runs + 1, 0
        while not (folder / 'record.json').exists():
            over, attempts = sum(places.values()) >= KILLS, attempts + 1
            trap = (attempts // 2 % len(STAGES), rng.randrange(1, 3)) if attempts % 2 and not over else None
            began, process = time.monotonic(), started(str(world), folder, trap)
            process.join(None if trap or over else rng.random() * longest)
            process.kill()
            process.join()
            if process.exitcode == 0:
                longest = time.monotonic() - began
            else:
                assert process.exitcode == -signal.SIGKILL
                places[
                    f'{STAGES[trap[0]][1]} {"done" if STAGES[trap[0]][2] else "begun"}'
                    if trap
                    else f'after {epochs_in(folder)} epochs'
                ] += 1
                longest = max(longest, time.monotonic() - began)
            assert epochs <= (epochs := epochs_in(folder))
        assert outcome(folder) == expected and not list(folder.glob('*.part'))
    print(
        f'{sum(places.values())} kills in {runs} runs:',
        ', '.join(f'{n} {place}' for place, n in sorted(places.items())),
    )


def test_no_cluster_at_all_says_which_parameter_to_move(tiny, tiny_stores):
    with pytest.raises(ValueError, match='raise eps'):
        train(
            TrainConfig(**SHORT, method='full', eps=1e-4, min_samples=200),
            tiny,
            stores=tiny_stores,
            progress=False,
        )


def test_n_subsets_of_one_or_above_the_number_of_images(tiny, tiny_stores):
    for n in (1, len(tiny.train) + 1):
        with pytest.raises(ValueError, match=str(n)):
            train(TrainConfig(**{**SHORT, 'n_subsets': n}), tiny, stores=tiny_stores, progress=False)


def test_a_loss_that_is_not_finite_stops_the_run_with_the_checkpoint_whole(tiny, tiny_stores, tmp_path):
    config = TrainConfig(**SHORT, learning_rate=float('inf'))
    with pytest.raises(FloatingPointError, match="in epoch 0: lower the learning rate"):
        train(config, tiny, tmp_path, stores=tiny_stores, progress=False)
    assert not list(tmp_path.glob('*.part')) and not (tmp_path / 'record.json').exists()


def test_weights_of_another_architecture_are_refused(tiny, tiny_stores, tmp_path):
    path = save_weights(build_model('resnet50', None), tmp_path / 'large.safetensors')
    with pytest.raises(ValueError, match='resnet50'):
        train(TrainConfig(**SHORT, weights=str(path)), tiny, stores=tiny_stores, progress=False)
