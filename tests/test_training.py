"""What a long run may meet: interruption, stale folders, ids that must not be read, odd worlds."""
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from mcl.models import build_model, save_weights
from mcl.training import METHODS, Stores, TrainConfig, from_json, train

SHORT = dict(epochs=2, steps_per_epoch=4, p=6, n_subsets=2, k1=10, k2=3)


def weights_of(run):
    return run.model.state_dict()


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(weights_of(a).values(), weights_of(b).values()))


@pytest.mark.parametrize('method', METHODS)
def test_every_method_ends_in_a_complete_record(method, tiny, tiny_stores, tmp_path):
    record = train(TrainConfig(method=method, **SHORT), tiny, tmp_path / 'run', stores=tiny_stores, progress=False).record
    adam = torch.load(tmp_path / 'run' / 'checkpoint.pt', weights_only=True)['optimizer']['state']
    assert {int(s['step']) for s in adam.values()} == {record['steps']}, 'steps are those the optimiser took'
    needed = ('world method fraction seed epochs steps images_seen mAP rank1 rank5 rank10 mINP clustering_s clustered_images '
              'clustering_peak_mib train_s total_s n_clusters outlier_rate device threads versions started').split()
    assert not [key for key in needed if record.get(key) is None]
    assert 0 <= record['mAP'] <= 100
    json.dumps(record, allow_nan=False)


def test_equal_steps_and_images_for_all_methods_but_subset(tiny, tiny_stores):
    seen = {m: train(TrainConfig(method=m, **SHORT), tiny, stores=tiny_stores, progress=False).record['images_seen'] for m in METHODS}
    assert len({seen[m] for m in METHODS if m != 'subset'}) == 1
    assert seen['subset'] < seen['mcl'] == seen['mcl_plus']


@pytest.mark.parametrize('method', [m for m in METHODS if m != 'supervised'])
def test_no_method_reads_training_ids(method, tiny, tiny_stores):
    shuffled = np.random.default_rng(0).permutation([s.pid for s in tiny.train])
    samples = [dataclasses.replace(s, pid=int(pid)) for s, pid in zip(tiny_stores.train.samples, shuffled)]
    blind_store = WithSamples(tiny_stores.train, samples)
    config = TrainConfig(method=method, **SHORT)
    seen = train(config, tiny, stores=tiny_stores, progress=False)
    blind = train(config, dataclasses.replace(tiny, train=samples), stores=Stores(blind_store, tiny_stores.query, tiny_stores.gallery), progress=False)
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
    unlabelled = WithSamples(tiny_stores.train, [dataclasses.replace(s, pid=None) for s in tiny_stores.train.samples])
    run = train(TrainConfig(**SHORT), tiny, stores=Stores(unlabelled, None, None), progress=False)
    assert 'mAP' not in run.record and run.record['pseudo_label_ari'] is None and run.record['n_clusters'] > 0
    with pytest.raises(ValueError, match='person id'):
        train(TrainConfig(method='supervised', **SHORT), tiny, stores=Stores(unlabelled, None, None), progress=False)


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
        train(config, tiny, tmp_path, stores=Stores(StopsLate(tiny_stores.train, tiny.train), tiny_stores.query, tiny_stores.gallery), progress=False)
    assert (tmp_path / 'checkpoint.pt').exists() and not (tmp_path / 'record.json').exists()
    resumed = train(config, tiny, tmp_path, resume=True, stores=tiny_stores, progress=False)
    assert same_weights(whole, resumed)
    assert whole.record['mAP'] == resumed.record['mAP']


def test_a_finished_run_is_not_overwritten(tiny, tiny_stores, tmp_path):
    config = TrainConfig(**SHORT)
    train(config, tiny, tmp_path, stores=tiny_stores, progress=False)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match='resume'):
        train(config, tiny, tmp_path, stores=tiny_stores, progress=False)
    with pytest.raises(ValueError, match='eps'):
        train(dataclasses.replace(config, eps=0.5), tiny, tmp_path, resume=True, stores=tiny_stores, progress=False)
    assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir()}


def test_killed_at_random_moments_the_checkpoint_stays_whole(worlds, tiny, tmp_path):
    command = [sys.executable, '-c', 'from mcl.cli import main; main()', 'train', '--dataset', 'pedworld-tiny', '--data-dir', str(worlds), '--run-dir', str(tmp_path / 'run'), '--resume',
               '--set', 'epochs=40', '--set', 'steps_per_epoch=2', '--set', 'p=4', '--set', 'n_subsets=2', '--set', 'k1=10', '--set', 'k2=3']
    rng, checkpoint = random.Random(0), tmp_path / 'run' / 'checkpoint.pt'
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline, before = time.monotonic() + 90, epochs_in(checkpoint)
        while epochs_in(checkpoint) <= before and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        time.sleep(rng.random() * 0.3)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert epochs_in(checkpoint) > before


def epochs_in(checkpoint):
    if not checkpoint.exists():
        return 0
    saved = torch.load(checkpoint, weights_only=True)
    assert from_json(saved['config']).epochs == 40
    return len(saved['history'])


def test_no_cluster_at_all_says_which_parameter_to_move(tiny, tiny_stores):
    with pytest.raises(ValueError, match='raise eps'):
        train(TrainConfig(**SHORT, method='full', eps=1e-4, min_samples=200), tiny, stores=tiny_stores, progress=False)


def test_n_subsets_of_one_or_above_the_number_of_images(tiny, tiny_stores):
    for n in (1, len(tiny.train) + 1):
        with pytest.raises(ValueError, match=str(n)):
            train(TrainConfig(**{**SHORT, 'n_subsets': n}), tiny, stores=tiny_stores, progress=False)


def test_a_loss_that_is_not_finite_stops_the_run_with_the_checkpoint_whole(tiny, tiny_stores, tmp_path):
    config = TrainConfig(**SHORT, learning_rate=float('inf'))
    with pytest.raises((FloatingPointError, ValueError)):
        train(config, tiny, tmp_path, stores=tiny_stores, progress=False)
    assert not list(tmp_path.glob('*.part')) and not (tmp_path / 'record.json').exists()


def test_weights_of_another_architecture_are_refused(tiny, tiny_stores, tmp_path):
    path = save_weights(build_model('resnet50', None), tmp_path / 'large.safetensors')
    with pytest.raises(ValueError, match='resnet50'):
        train(TrainConfig(**SHORT, weights=str(path)), tiny, stores=tiny_stores, progress=False)
