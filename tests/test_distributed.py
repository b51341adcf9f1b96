"""Two processes give what one gives: on a CPU, with gloo, on the tiny world."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from ports import free_port
from typer.testing import CliRunner

from mcl.commands import app
from mcl.config import TrainConfig
from mcl.data import load_dataset, read_ids
from mcl.distributed import (
    join_processes,
    network_of,
    on_main,
    processes,
    share_out,
    shared_features,
)
from mcl.epoch import Batches, phase_one_step
from mcl.images import open_stores
from mcl.models import build_model, extract_features, shipped_weights
from mcl.prototypes import MetaPrototypes
from mcl.pseudo_labels import cluster_sets
from mcl.sources import save_prototypes
from mcl.training import train

CONFIG = TrainConfig(method='mcl', epochs=2, steps_per_epoch=4, p=6, n_subsets=2, k1=10, k2=3)


def one_step(stores):
    """Loss, gradients and batch statistics of one step on a batch whose 15 images two processes cannot halve,
    and the moved prototypes, in float64: in float32 a ReLU near zero may fall to either side.
    """
    model, labels = (
        build_model('small').double().train(),
        np.unique(read_ids(stores.train.samples)[1], return_inverse=True)[1],
    )
    network = network_of(model, torch.device('cpu'))
    features = shared_features(build_model('small'), stores.train).double()
    prototypes = MetaPrototypes.from_labels(features, labels)
    images, targets = next(Batches(TrainConfig(p=5, k=3), stores.train, labels, 0).phase_one(labels))
    loss = phase_one_step(network, images.double(), targets, prototypes)
    (processes()[1] * loss).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return dict(
        images=len(images),
        loss=loss.detach(),
        gradients=gradients,
        statistics=dict(model.named_buffers()),
        centroids=prototypes.centroids,
    )


def complaint(function, call=lambda function: function()):
    "What becomes of an error, in every process."
    try:
        call(function)
    except (ValueError, ZeroDivisionError) as error:
        return str(error)


def window_labels():
    "Labels of three windows of different lengths, some images left out."
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20, 16))[rng.integers(20, size=330)] + 0.4 * rng.normal(size=(330, 16))
    features = torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float32))
    windows = np.split(rng.permutation(350)[:330], [60, 170])
    return torch.from_numpy(cluster_sets(features, windows, 350, TrainConfig(k1=8, k2=3, p=4)))


def work(worlds, folder):
    "What each of two processes does; its findings go to a file."
    torch.set_num_threads(1)
    join_processes('cpu')
    tiny, rank = load_dataset('pedworld-tiny', root=worlds), processes()[0]
    stores = open_stores(tiny, (64, 32), progress=False)
    found = dict(
        features=shared_features(build_model('small'), stores.train),
        step=one_step(stores),
        error=complaint(lambda: int('nothing'), on_main),
        shared=share_out(lambda piece: processes()[0], 5),
        windows=window_labels(),
        lost_piece=complaint(lambda: share_out(lambda piece: 1 // (piece - 1), 4)),
    )
    run = train(CONFIG, tiny, Path(folder) / 'run', stores=stores)
    torch.save(
        dict(found, weights=run.model.state_dict(), history=run.history, mAP=run.record['mAP']),
        Path(folder) / f'rank{rank}.pt',
    )


def launched(*words, seconds=300):
    "Run a launcher in a group of its own; whatever happens, none of its processes is left."
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'}
    process = subprocess.Popen(
        [sys.executable, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        text, _ = process.communicate(timeout=seconds)
    finally:
        left = end_group(process.pid)
        process.wait()
    assert not left and process.returncode == 0, text
    return text


def end_group(group):
    "End every process of a group; were there any?"
    try:
        os.killpg(group, 9)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope='module')
def two(worlds, tiny, tmp_path_factory):
    "What each of two processes found, their folder, and what was printed."
    folder = tmp_path_factory.mktemp('two')
    text = launched(
        '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', 2, __file__, worlds, folder
    )
    return [torch.load(folder / f'rank{rank}.pt', weights_only=True) for rank in (0, 1)], folder, text


@pytest.fixture(scope='module')
def one(tiny, tiny_stores):
    return train(CONFIG, tiny, stores=tiny_stores, progress=False)


def test_features_are_those_of_one_process(two, tiny_stores):
    alone = extract_features(build_model('small'), tiny_stores.train, progress=False)
    for found in two[0]:
        torch.testing.assert_close(found['features'], alone, atol=1e-5, rtol=0)


def test_a_step_has_the_gradients_of_one_process(two, tiny_stores):
    alone, (first, second) = one_step(tiny_stores), [found['step'] for found in two[0]]
    assert (first['images'], second['images'], alone['images']) == (8, 7, 15)
    for found in (first, second):
        torch.testing.assert_close(found['loss'], alone['loss'], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(found['centroids'], alone['centroids'], atol=1e-5, rtol=0)
        for name, value in alone['statistics'].items():
            torch.testing.assert_close(found['statistics'][name], value, atol=1e-4, rtol=1e-4)
        for name, value in alone['gradients'].items():
            assert (found['gradients'][name] - value).norm() <= 1e-5 * value.norm() + 1e-7, name


def test_the_first_epoch_has_the_same_pseudo_labels_and_the_run_the_same_accuracy(two, one):
    theirs, ours = two[0][0]['history'][0], one.history[0]
    for key in ('n_clusters', 'outlier_rate', 'pseudo_label_ari', 'steps'):
        assert ours[key] == theirs[key], key
    for key in ('loss', 'polish_loss'):
        assert abs(ours[key] - theirs[key]) < 0.001 * ours[key], key
    assert abs(one.record['mAP'] - two[0][0]['mAP']) < 0.5


def test_both_processes_end_with_one_network(two):
    first, second = two[0]
    for name, value in first['weights'].items():
        assert torch.equal(value, second['weights'][name]), name
    assert first['mAP'] == second['mAP']
    assert [row['n_clusters'] for row in first['history']] == [row['n_clusters'] for row in second['history']]


def test_an_error_of_the_main_process_reaches_the_other(two):
    assert all('nothing' in found['error'] for found in two[0])


def test_windows_are_clustered_side_by_side_with_the_labels_of_one_process(two):
    alone = window_labels()
    assert alone.max() > 20
    for found in two[0]:
        assert found['shared'] == [0, 1, 0, 1, 0]
        assert torch.equal(found['windows'], alone)
        assert 'zero' in found['lost_piece']


def test_only_the_main_process_writes_and_shows_a_bar(two, one):
    _, folder, text = two
    assert (
        json.loads((folder / 'run' / 'record.json').read_text())['processes'] == 2
        and one.record['processes'] == 1
    )
    assert sorted(p.name for p in (folder / 'run').iterdir()) == [
        '.lock',
        'checkpoint.pt',
        'data.json',
        'history.json',
        'model.safetensors',
        'record.json',
    ]
    assert text.count('mcl:   0%') == 1


def test_a_run_of_two_goes_on_alone(two, tiny, tiny_stores):
    folder = two[1] / 'run'
    again = train(CONFIG, tiny, folder, resume=True, stores=tiny_stores, progress=False)
    assert again.history == two[0][0]['history'] and abs(again.record['mAP'] - two[0][0]['mAP']) < 1e-3


SETTINGS = dict(epochs=1, steps_per_epoch=2, p=4, n_subsets=2, k1=10, k2=3)


def test_the_command_line_under_accelerate(worlds, tiny, tmp_path):
    settings = [word for name, value in SETTINGS.items() for word in ('--set', f'{name}={value}')]
    text = launched(
        '-m',
        'accelerate.commands.launch',
        '--multi_gpu',
        '--num_processes',
        2,
        '--main_process_port',
        free_port(),
        '-m',
        'mcl.cli',
        'train',
        '--data-dir',
        worlds,
        '--dataset',
        'pedworld-tiny',
        '--run-dir',
        tmp_path / 'run',
        *settings,
    )
    assert text.count(f'wrote {tmp_path / "run"}') == 1
    assert json.loads((tmp_path / 'run' / 'record.json').read_text())['processes'] == 2


@contextmanager
def one_thread():
    "What launchers give to each process: sums are then made in the same order."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_annotation_of_images_under_accelerate_writes_the_files_of_one_process(worlds, tiny, tmp_path):
    images = worlds / 'pedworld-tiny' / 'query'
    directions = torch.randn(9, build_model('small').dim, generator=torch.Generator().manual_seed(0))
    prototypes = save_prototypes(MetaPrototypes(directions), tmp_path / 'p.safetensors')
    command = ['annotate', images, prototypes]
    options = ['--weights', shipped_weights(), '--shard-rows', 10]
    text = launched(
        '-m',
        'accelerate.commands.launch',
        '--multi_gpu',
        '--num_processes',
        2,
        '--main_process_port',
        free_port(),
        '-m',
        'mcl.cli',
        *command,
        tmp_path / 'two',
        *options,
    )
    assert text.count(f'wrote {tmp_path / "two"}: {len(tiny.query)} soft labels over 9 meta-prototypes') == 1
    with one_thread():
        done = CliRunner().invoke(app, [str(word) for word in (*command, tmp_path / 'one', *options)])
    assert done.exit_code == 0, done
    two, one = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ('two', 'one'))
    assert two == one and len(one) > 3 * 2


def from_a_notebook(worlds, folder):
    "What 08_training shows, in a fresh process: the data set is loaded before there are two."
    from accelerate import notebook_launcher

    tiny = load_dataset('pedworld-tiny', root=worlds)
    notebook_launcher(
        lambda: train(TrainConfig(method='mcl', **SETTINGS), tiny, Path(folder) / 'run', device='cpu'),
        num_processes=2,
        use_port=str(free_port()),
    )
    print('processes', json.loads((Path(folder) / 'run' / 'record.json').read_text())['processes'])


def test_the_launcher_of_notebooks(worlds, tiny, tmp_path):
    assert 'processes 2' in launched(__file__, worlds, tmp_path, 'notebook')


if __name__ == '__main__':
    (from_a_notebook if 'notebook' in sys.argv else work)(*sys.argv[1:3])
