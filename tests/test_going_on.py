"""Work that stopped goes on where it was, after the advice it was stopped with; and labels stay with their
images.
"""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from ports import free_port

import mcl.extraction as extraction
from mcl.cli import main
from mcl.config import TrainConfig
from mcl.data import load_dataset
from mcl.distributed import join_processes, shared_features
from mcl.images import ImageStore, open_stores
from mcl.models import build_model
from mcl.names import Sample
from mcl.pedworld import render
from mcl.records import commit
from mcl.training import train
from mcl.world import World

SMALL = World(8, 8, 2, seed=3, size=(64, 32))
SHORT = TrainConfig(
    method='full', epochs=2, steps_per_epoch=2, p=3, k=2, n_subsets=2, k1=6, k2=2, min_samples=2
)


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    return render(SMALL, tmp_path_factory.mktemp('going') / 'world', progress=False)


def run(*words):
    "Exit status of a command in this process."
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return stop.value.code


@pytest.fixture
def crops(tmp_path, monkeypatch):
    "Twelve crops, of which the sixth is broken; the folder above is where we are."
    folder, rng = tmp_path / 'crops', np.random.default_rng(0)
    folder.mkdir()
    for number in range(12):
        Image.fromarray(rng.integers(0, 256, (64, 32, 3), dtype=np.uint8)).save(folder / f'{number:02}.png')
    (folder / '05.png').write_bytes(b'broken')
    monkeypatch.chdir(tmp_path)
    return folder


def looked_at(monkeypatch):
    "The blocks that are written from here on."
    write, written = extraction.write_block, []

    def remember(file, *arguments):
        write(file, *arguments)
        written.append(file.name[:6])

    monkeypatch.setattr(extraction, 'write_block', remember)
    return written


@pytest.mark.parametrize('advice', ['skip', 'replace'])
def test_features_go_on_after_a_bad_image_was_replaced_or_is_skipped(advice, crops, monkeypatch, capsys):
    monkeypatch.setattr(extraction, 'BLOCK', 3)
    written, words = looked_at(monkeypatch), ['features', 'source', crops, 'f.npy']
    assert run(*words) == 2 and '05.png' in capsys.readouterr().err
    assert written == ['000000']
    if advice == 'replace':
        Image.new('RGB', (32, 64)).save(crops / '05.png')
    assert run(*words, *['--on-error', 'skip'] * (advice == 'skip')) == 0
    assert written == ['000000', '000001', '000002', '000003'], 'the first block was whole'
    assert len(np.load('f.npy')) == 12 - (advice == 'skip')


def test_annotation_goes_on_without_the_images_that_cannot_be_read(crops, capsys):
    assert run('features', 'source', crops, 'f.npy', '--on-error', 'skip') == 0
    np.save('l.npy', np.arange(11) % 4)
    options = ['--features', 'f.npy', '--weights', 'source', '--shard-rows', 4]
    words = ['annotate', crops, 'l.npy', 'soft', *options]
    assert run(*words) == 2 and '05.png' in capsys.readouterr().err
    first = Path('soft/part-00000.probabilities.npy').stat().st_mtime_ns
    assert run(*words, '--on-error', 'skip') == 0
    assert Path('soft/part-00000.probabilities.npy').stat().st_mtime_ns == first
    assert sum(shard['rows'] for shard in json.loads(Path('soft/manifest.json').read_text())['shards']) == 11


def test_labels_of_features_with_images_left_out_need_these_features(crops, capsys):
    assert run('features', 'source', crops, 'f.npy', '--on-error', 'skip') == 0
    np.save('l.npy', np.arange(11) % 4)
    assert run('annotate', crops, 'l.npy', 'soft', '--weights', 'source', '--on-error', 'skip') == 2
    assert '--features' in capsys.readouterr().err


def test_a_cut_cache_is_named_and_no_readable_image_is_left_out(crops, capsys):
    (crops / '05.png').unlink()
    words = ['features', 'source', crops, 'f.npy', '--on-error', 'skip', '--cache', 'cache']
    assert run(*words) == 0 and len(np.load('f.npy')) == 11
    decoded = next(Path('cache').glob('*.images'))
    decoded.write_bytes(decoded.read_bytes()[:-1])
    assert run(*words) == 2
    assert str(decoded.name) in capsys.readouterr().err


def test_a_link_to_nowhere_is_an_image_that_cannot_be_read(crops):
    (crops / '05.png').unlink()
    (crops / '05.png').symlink_to('nowhere.png')
    assert run('features', 'source', crops, 'f.npy', '--on-error', 'skip') == 0
    np.save('l.npy', np.arange(11) % 4)
    words = ['soft', '--features', 'f.npy', '--weights', 'source', '--on-error', 'skip']
    assert run('annotate', crops, 'l.npy', *words) == 0


def test_labels_of_training_images_are_not_those_of_a_whole_benchmark(world, tmp_path, capsys):
    np.save(tmp_path / 'l.npy', np.arange(20) % 4)
    words = world, tmp_path / 'l.npy', tmp_path / 'soft', '--weights', 'source'
    assert run('annotate', *words) == 2
    assert 'give the features' in capsys.readouterr().err and not (tmp_path / 'soft').exists()


def test_an_output_that_cannot_be_written_is_refused_before_the_work(crops, monkeypatch, capsys):
    np.save('l.npy', np.arange(4))
    monkeypatch.setattr('mcl.annotate.extract_features', None)
    assert run('annotate', crops, 'l.npy', 'nowhere/soft.npz', '--weights', 'source') == 2
    assert 'nowhere' in capsys.readouterr().err


def test_the_lock_of_a_folder_of_blocks_survives_other_settings(crops, monkeypatch):
    samples = [Sample(path) for path in sorted(crops.glob('*.png'))]
    task = extraction.Task(Path('f.npy'), build_model('small'), samples, (64, 32), 'skip')
    task.folder.mkdir()
    extraction.missing_blocks(task)
    (task.folder / '.lock').touch()
    extraction.missing_blocks(task._replace(size=(32, 16)))
    assert (task.folder / '.lock').exists()


def test_measuring_along_the_way_needs_queries(world, tmp_path):
    alone = load_dataset(str(world / 'bounding_box_train'))
    with pytest.warns(UserWarning, match='evaluate_every measures nothing'):
        found = train(replace(SHORT, evaluate_every=1), alone, tmp_path / 'run', progress=False)
    assert len(found.history) == 2 and 'mAP' not in found.record


def test_stores_of_another_size_are_refused(world):
    small = load_dataset(str(world))
    with pytest.raises(ValueError, match='64 x 32.*32 x 16'):
        train(replace(SHORT, height=32, width=16), small, stores=open_stores(small, progress=False))


def test_a_folder_may_be_named_like_a_world(world, tmp_path, monkeypatch):
    (tmp_path / 'pedworld-tiny').symlink_to(world, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    settings = [word for name in ('epochs', 'steps_per_epoch', 'p', 'k', 'k1', 'k2', 'min_samples')
                for word in ('--set', f'{name}={getattr(SHORT, name)}')]
    assert run('train', '--data-dir', 'pedworld-tiny', '--method', 'full', *settings) == 0


def test_a_package_inside_a_foreign_checkout_has_no_commit(tmp_path, monkeypatch):
    git = ['git', '-C', str(tmp_path), '-c', 'user.name=a', '-c', 'user.email=a@b.c']
    subprocess.run(['git', 'init', '-q', str(tmp_path)], check=True)
    (tmp_path / 'mine.txt').write_text('mine')
    subprocess.run([*git, 'add', 'mine.txt'], check=True)
    subprocess.run([*git, 'commit', '-qm', 'mine'], check=True)
    (tmp_path / 'mcl').mkdir()
    (tmp_path / 'mcl' / '__init__.py').touch()
    monkeypatch.setattr('mcl.__file__', str(tmp_path / 'mcl' / '__init__.py'))
    assert commit() is None
    subprocess.run([*git, 'add', 'mcl'], check=True)
    assert len(commit()) > 6


def one_image_of_two_processes(rank, folder, port):
    place = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=2, MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
    os.environ.update({name: str(value) for name, value in place.items()})
    join_processes('cpu')
    store = ImageStore([Sample(Path(folder, 'a.png'))], progress=False)
    assert shared_features(build_model('small').eval(), store).shape == (1, 256)


def test_fewer_images_than_processes(tmp_path):
    Image.new('RGB', (32, 64)).save(tmp_path / 'a.png')
    torch.multiprocessing.spawn(one_image_of_two_processes, (str(tmp_path), free_port()), nprocs=2)


def test_images_without_times_are_refused_by_name_and_nothing_is_left(crops, capsys):
    (crops / '05.png').unlink()
    assert run('train', '--method', 'per_subset', '--data-dir', crops, '--run-dir', 'run') == 2
    assert f'first {crops / "00.png"}: give times' in capsys.readouterr().err
    assert not Path('run').exists()
