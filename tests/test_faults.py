"""What can go wrong around a run: a full disk, images that are lost, a process that dies, data sets that are
too small or wrongly packed.
"""

import contextlib
import dataclasses
import errno
import json
import multiprocessing
import os
import resource
import shutil
import signal
import threading

import numpy as np
import pytest
import torch
from ports import free_port
from tqdm import tqdm

from mcl.cli import main
from mcl.config import METHOD_SETTINGS, TrainConfig
from mcl.data import load_dataset
from mcl.images import open_stores
from mcl.pedworld import render
from mcl.training import load_checkpoint, train
from mcl.world import World

SHORT = dict(epochs=2, steps_per_epoch=2, p=3, k=2, n_subsets=2, k1=6, k2=2, min_samples=2)
CONFIG = TrainConfig(**SHORT)
SMALL = World(8, 8, 3, seed=1, size=(64, 32))


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    return render(SMALL, tmp_path_factory.mktemp('small') / 'world', progress=False)


@pytest.fixture(scope='module')
def small(world):
    return load_dataset(str(world))


@pytest.fixture(scope='module')
def stores(small):
    return open_stores(small, (64, 32), progress=False)


@pytest.fixture(scope='module')
def mAP(small, stores):
    return train(CONFIG, small, stores=stores, progress=False).record['mAP']


def names(folder):
    "Files of a run folder, without the lock and the note about the data, which are there from the start."
    return sorted(p.name for p in folder.iterdir() if p.name not in ('.lock', 'data.json'))


def render_at(barrier, folder):
    barrier.wait()
    render(SMALL, folder, progress=False)


def test_processes_that_render_one_world_at_the_same_time_do_not_disturb_each_other(world, tmp_path):
    spawn = multiprocessing.get_context('spawn')
    barrier = spawn.Barrier(3)
    together = [spawn.Process(target=render_at, args=(barrier, tmp_path / 'world')) for _ in range(3)]
    for process in together:
        process.start()
    for process in together:
        process.join()
    assert [process.exitcode for process in together] == [0, 0, 0]
    contents = [
        {p.relative_to(root): p.read_bytes() for p in root.rglob('*') if p.is_file()}
        for root in (world, tmp_path / 'world')
    ]
    assert contents[0] == contents[1]


class Disk:
    "A disk that is full for one file: whatever is written for it fails after a few bytes."

    def __init__(self, monkeypatch, name):
        self.name, self.full = name, True
        monkeypatch.setattr('builtins.open', self.opener(open))

    def opener(self, real):
        def opened(path, *arguments, **named):
            file = real(path, *arguments, **named)
            return Full(file) if self.full and self.is_draft(path) else file

        return opened

    def is_draft(self, path):
        name = str(path).rpartition('/')[2]
        return name.startswith(f'.{self.name}.') and name.endswith('.part')


class Full:
    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        self.file.write(bytes(data)[:7])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    'name, left',
    [
        ('checkpoint.pt', []),
        ('model.safetensors', ['checkpoint.pt']),
        ('record.json', ['checkpoint.pt', 'history.json', 'model.safetensors']),
    ],
)
def test_a_full_disk_is_named_and_the_run_goes_on_where_it_was(
    name, left, small, stores, mAP, tmp_path, monkeypatch
):
    disk = Disk(monkeypatch, name)
    with pytest.raises(OSError, match='No space left.*make room') as error:
        train(CONFIG, small, tmp_path, stores=stores, progress=False)
    assert error.value.errno == errno.ENOSPC and str(tmp_path / name) in str(error.value)
    assert names(tmp_path) == left
    disk.full = False
    assert train(CONFIG, small, tmp_path, resume=True, stores=stores, progress=False).record['mAP'] == mAP


@pytest.mark.parametrize('at', [1, 8])
def test_ctrl_c_while_a_checkpoint_is_written_stays_ctrl_c(at, small, stores, tmp_path, monkeypatch):
    Disk(monkeypatch, 'checkpoint.pt')
    written = []

    def press(file, data):
        written.append(len(data))
        if len(written) == at:
            file.file.write(bytes(data)[:7])
            raise KeyboardInterrupt
        return file.file.write(data)

    monkeypatch.setattr(Full, 'write', press)
    with contextlib.suppress(KeyboardInterrupt):  # and nothing else: PyTorch makes an error of its own of it
        train(CONFIG, small, tmp_path, stores=stores, progress=False)
    assert len(written) < at or names(tmp_path) == []


def test_a_disk_that_fills_up_later_leaves_the_last_checkpoint_whole(
    small, stores, mAP, tmp_path, monkeypatch
):
    disk, real = Disk(monkeypatch, 'checkpoint.pt'), torch.save
    disk.full = False
    saved = []

    def save(content, file):
        real(content, file)
        disk.full = bool(saved)
        saved.append(file)

    monkeypatch.setattr(torch, 'save', save)
    with pytest.raises(OSError, match='make room'):
        train(CONFIG, small, tmp_path / 'run', stores=stores, progress=False)
    assert (
        names(tmp_path / 'run') == ['checkpoint.pt']
        and len(load_checkpoint(tmp_path / 'run' / 'checkpoint.pt', CONFIG).history) == 1
    )
    disk.full = False
    monkeypatch.setattr(torch, 'save', real)
    assert (
        train(CONFIG, small, tmp_path / 'run', resume=True, stores=stores, progress=False).record['mAP']
        == mAP
    )


def settings(**changes):
    return [word for key, value in {**SHORT, **changes}.items() for word in ('--set', f'{key}={value}')]


def said(capsys, *words):
    "The complaint of the `mcl` command: one line, exit status 2."
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    text = capsys.readouterr().err.strip().splitlines()[-1]
    assert ended.value.code == 2 and text.startswith('mcl: ')
    return text


def test_a_file_larger_than_the_system_allows(world, tmp_path, capsys):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        text = said(capsys, 'train', '--data-dir', world, '--run-dir', tmp_path / 'run', *settings())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert 'checkpoint.pt' in text and '--resume' in text and names(tmp_path / 'run') == []


def test_an_image_lost_or_cut_short_after_it_was_listed(world, tmp_path):
    folder = shutil.copytree(world, tmp_path / 'world')
    dataset = load_dataset(str(folder))
    lost, cut, empty = (dataset.train[i].path for i in (3, 4, 5))
    empty.write_bytes(b'')
    with pytest.raises(ValueError, match=empty.name):
        train(CONFIG, dataset, tmp_path / 'run', progress=False)
    cut.write_bytes(cut.read_bytes()[:300])
    with pytest.raises(ValueError, match=cut.name):
        train(CONFIG, dataset, tmp_path / 'run', progress=False)
    lost.unlink()
    with pytest.raises(FileNotFoundError, match=lost.name):
        train(CONFIG, dataset, tmp_path / 'run', progress=False)
    assert not (tmp_path / 'run').exists()
    store = open_stores(dataset, (64, 32), progress=False, on_error='skip').train
    assert store.skipped == [lost, cut, empty] and len(store) == len(dataset.train) - 3


def test_an_image_lost_while_it_is_read_from_disk_again_and_again(world, tmp_path):
    dataset = load_dataset(str(shutil.copytree(world, tmp_path / 'world')))
    large = open_stores(dataset, (64, 32), progress=False, cache_bytes=0)
    train(dataclasses.replace(CONFIG, epochs=1), dataset, tmp_path / 'before', stores=large, progress=False)
    for sample in dataset.train[::2]:
        sample.path.unlink()
    with pytest.raises(FileNotFoundError, match='no such image'):
        train(CONFIG, dataset, tmp_path / 'run', stores=large, progress=False)
    assert not (tmp_path / 'run' / 'record.json').exists()


def test_in_a_world_of_one_camera_matches_under_it_count_and_a_line_says_so(tmp_path, capsys):
    folder = render(World(8, 8, 1, size=(64, 32)), tmp_path / 'world', progress=False)
    words = ('train', '--data-dir', folder, '--run-dir', tmp_path / 'run', '--method', 'full', *settings())
    with pytest.raises(SystemExit, match='^0$'):
        main([str(word) for word in words])
    assert 'mcl: all images come from one camera' in capsys.readouterr().err
    assert json.loads((tmp_path / 'run' / 'record.json').read_text())['mAP'] > 0


def test_training_images_alone_give_a_record_without_a_score(tmp_path):
    folder = render(World(8, 8, 1, size=(64, 32)), tmp_path / 'world', progress=False) / 'bounding_box_train'
    words = ('train', '--data-dir', folder, '--run-dir', tmp_path / 'run', '--method', 'full', *settings())
    with pytest.raises(SystemExit, match='^0$'):
        main([str(word) for word in words])
    assert 'mAP' not in json.loads((tmp_path / 'run' / 'record.json').read_text())


@pytest.mark.parametrize('people, images', [(1, 12), (3, 4)])
@pytest.mark.parametrize('method', ['mcl', 'mcl_plus', 'full', 'supervised'])
def test_one_person_or_fewer_images_than_a_batch_can_be_trained_on(method, people, images, tmp_path):
    dataset = load_dataset(
        str(render(World(people, images, 3, n_test_ids=4, size=(64, 32)), tmp_path / 'world', progress=False))
    )
    run = train(
        dataclasses.replace(METHOD_SETTINGS[method], **{**SHORT, 'p': 8, 'k': 4, 'epochs': 1}),
        dataset,
        progress=False,
    )
    assert np.isfinite(run.history[-1]['loss']) and len(dataset.train) < 32


def test_weights_that_are_not_finite_are_no_checkpoint(small, stores, tmp_path):
    config = TrainConfig(**{**SHORT, 'steps_per_epoch': 1, 'method': 'full', 'learning_rate': float('inf')})
    with pytest.raises(FloatingPointError, match='weights became infinite or NaN in epoch 0'):
        train(config, small, tmp_path, stores=stores, progress=False)
    assert names(tmp_path) == []


def test_a_checkpoint_copied_in_part(small, stores, tmp_path):
    train(CONFIG, small, tmp_path, stores=stores, progress=False)
    content = (tmp_path / 'checkpoint.pt').read_bytes()
    (tmp_path / 'checkpoint.pt').write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match='checkpoint.pt is not a whole checkpoint'):
        train(CONFIG, small, tmp_path, resume=True, stores=stores, progress=False)


def one_of_two(rank, port, world, folder, errors):
    "What each of two processes does: the second dies in its second epoch."
    import mcl.training as training

    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE='2',
        LOCAL_WORLD_SIZE='2',
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own lock would outlive the process
    real = training.run_epoch

    def run_epoch(state, *arguments):
        if state.history and rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(state, *arguments)

    training.run_epoch = run_epoch
    with open(errors, 'w', newline='') as file, contextlib.redirect_stderr(file):
        main(['train', '--data-dir', str(world), '--run-dir', str(folder), *settings()])


def test_when_one_of_two_processes_dies_the_other_ends_too(world, small, stores, tmp_path):
    port = free_port()
    server = multiprocessing.get_context('forkserver')
    server.set_forkserver_preload(['mcl.cli'])
    two = [
        server.Process(
            target=one_of_two, args=(rank, port, world, tmp_path / 'run', tmp_path / f'errors{rank}')
        )
        for rank in (0, 1)
    ]
    try:
        for process in two:
            process.start()
        for process in two:
            process.join(300)
    finally:
        for process in two:
            process.kill()
    errors = (tmp_path / 'errors0').read_text().splitlines()
    assert [process.exitcode for process in two] == [2, -signal.SIGKILL], errors
    complaint = [line for line in errors if 'another process' in line]
    assert (
        len(complaint) == 1
        and complaint[0].startswith('mcl: ')
        and 'resume' in complaint[0]
        and not any('Traceback' in line for line in errors)
    )
    assert (
        names(tmp_path / 'run') == ['checkpoint.pt']
        and len(load_checkpoint(tmp_path / 'run' / 'checkpoint.pt', CONFIG).history) == 1
    )
    assert 'mAP' in train(CONFIG, small, tmp_path / 'run', resume=True, stores=stores, progress=False).record
