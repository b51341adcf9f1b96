"""Faults that a hunt for them found: each is mended, and tested here."""

import csv
import re
import shutil
import threading
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from mcl.approximate import knn
from mcl.cli import main
from mcl.clustering import cluster
from mcl.config import TrainConfig
from mcl.curves import cluster_health
from mcl.estimator import JaccardDBSCAN
from mcl.features import in_parallel, matrix_library
from mcl.losses import soft_weighted_triplet_loss
from mcl.made_up import random_people
from mcl.map_table import principal_plane
from mcl.search import features_as_index
from mcl.training import train
from mcl.update import GrowingClusters

# Clustering, search, report and maps


def ended(words, capsys):
    "Exit status of a command, what it printed, and its complaints."
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    said = capsys.readouterr()
    return end.value.code or 0, said.out, said.err


@pytest.fixture
def files(tmp_path, monkeypatch):
    "A folder with features, names and labels of made-up people, from which commands run."
    monkeypatch.chdir(tmp_path)
    rows, people = random_people(120, 16, images=10, noise=0.2, each=True)
    np.save('f.npy', rows)
    np.save('l.npy', people)
    Path('f.txt').write_text(''.join(f'{number}.jpg\n' for number in range(len(rows))))
    return rows


def test_equal_images_of_a_dense_table_are_near():
    x = np.repeat(np.eye(2, 4), 3, axis=0)
    found = JaccardDBSCAN(eps=0.5, min_samples=2, metric='precomputed').fit_predict(1 - x @ x.T)
    assert found.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize('size', [1e-24, 1e24])
def test_features_of_any_size_have_the_same_clusters(files, size):
    clusterer = JaccardDBSCAN(k1=8, k2=3)
    assert (clusterer.fit_predict(np.float32(files * size)) == clusterer.fit_predict(files)).all()


def test_auto_passes_over_an_eps_without_clusters():
    rows, _ = random_people(600, 64, noise=4, images=8, seed=1)
    assert cluster(rows, 20, 6, 'auto', check=False).max() > 0


def test_the_command_says_which_eps_was_chosen(files, capsys):
    for words in ((), ('--update', 's.npz')):
        _, told, _ = ended(['cluster', 'f.npy', 'o.npy', '--k1', 8, '--eps', 'auto', *words], capsys)
        assert re.search(r', eps 0\.\d\d\n$', told)
    assert ', eps' not in ended(['cluster', 'f.npy', 'o.npy', '--k1', 8], capsys)[1]


def test_kmeans_leaves_no_gap(files, capsys):
    np.save('f.npy', np.repeat(files[::40], 20, axis=0))
    words = ['cluster', 'f.npy', 'o.npy', '--clusterer', 'kmeans', '--n-clusters', 6]
    status, told, warned = ended(words, capsys)
    assert status == 0 and '3 clusters' in told and '3 clusters instead of 6' in warned
    assert set(np.load('o.npy')) == {0, 1, 2}
    assert ended(['annotate', 'f.npy', 'o.npy', 'soft.npz'], capsys)[0] == 0


@pytest.mark.parametrize('update', [(), ('--update', 's.npz')])
def test_labels_do_not_overwrite_names(files, capsys, update):
    before = Path('f.txt').read_text()
    status, _, told = ended(['cluster', 'f.npy', 'f.txt', *update], capsys)
    assert status == 2 and '.npy' in told and Path('f.txt').read_text() == before


def set_threads_of_the_process(number):
    "From a thread that ends: threadpoolctl lets no other thread set them as long as it lives."
    setter = threading.Thread(target=lambda: matrix_library().limit(limits=number))
    setter.start()
    setter.join()


def test_clustering_in_two_threads_leaves_the_cores_as_they_were():
    "The first to come goes first, while the second is still at work."
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()
    works = (
        lambda start, stop: (first_in.set(), second_in.wait(20)),
        lambda start, stop: (second_in.set(), first_out.wait(20)),
    )
    first, second = (threading.Thread(target=in_parallel, args=(work, 1)) for work in works)
    numbers = lambda: [pool['num_threads'] for pool in matrix_library().info()]
    as_it_was = min(numbers())
    set_threads_of_the_process(2)
    before = numbers()
    first.start()
    assert first_in.wait(20)
    second.start()
    assert second_in.wait(20)
    first.join()
    first_out.set()
    second.join()
    after = numbers()
    set_threads_of_the_process(as_it_was)
    assert after == before


@pytest.mark.parametrize(
    'words',
    [
        ('cluster', 'f.npy', 'o.npy', '--update', 's.npz'),
        ('cluster', 'f.npy', 'o.npy', '--clusterer', 'kmeans', '--n-clusters', 3),
        ('map', 'f.npy', 'o.csv', '--layout', 'pca', '--k1', 8),
    ],
)
def test_work_shows_its_progress(files, capsys, words):
    with pytest.raises(SystemExit):
        main([str(word) for word in words])
    assert re.search('(neighbours|k-means):', capsys.readouterr().err)


def test_messages_speak_of_what_was_given(files):
    with pytest.raises(ValueError, match=r'^k must be'):
        knn(files, 0)
    for kind in (JaccardDBSCAN(eps='Auto').fit, lambda rows: GrowingClusters(eps='Auto')):
        with pytest.raises(ValueError, match="expected a number, or 'auto'"):
            kind(files)
    np.save('f.npy', 2 * files)
    with pytest.raises(ValueError, match='length 2') as problem:
        features_as_index(Path('f.npy'))
    assert 'normalise' not in str(problem.value)


def test_the_triplet_loss_of_no_image_is_zero():
    none = torch.zeros(0, 4, requires_grad=True)
    loss = soft_weighted_triplet_loss(none, torch.zeros(0, 3), [])
    loss.backward()
    assert loss == 0 and none.grad.shape == (0, 4)


def test_one_cluster_is_drawn_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        cluster_health(np.zeros(5, int), np.full(5, np.nan))


def test_a_map_checks_its_words_before_a_network_looks(files, tiny, capsys, monkeypatch):
    import mcl.models

    monkeypatch.setattr(mcl.models, 'extract_features', lambda *_, **__: pytest.fail('the network was asked'))
    np.save('floats.npy', np.zeros(5))
    for words, told in (
        (('--labels', 'floats.npy'), 'floats.npy'),
        (('--eps', 'abc'), "eps is 'abc'"),
        (('--k1', 0), 'k1 must be'),
    ):
        status, _, said = ended(['map', 'source', 'm.csv', '--data-dir', tiny.root, *words], capsys)
        assert status == 2 and told in said


def test_a_map_does_not_overwrite_its_names(files, capsys):
    Path('names.csv').write_text(Path('f.txt').read_text())
    words = ['map', 'f.npy', 'names.csv', '--names', 'names.csv', '--labels', 'l.npy', '--layout', 'pca']
    assert ended(words, capsys)[0] == 2 and Path('names.csv').read_text() == Path('f.txt').read_text()


def test_the_plane_takes_no_copy_of_the_features():
    rows = np.random.default_rng(0).normal(size=(40_000, 32)).astype(np.float32)
    tracemalloc.start()
    principal_plane(rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < rows.nbytes


@pytest.mark.parametrize('name', ['w.json', 'w.pth', 'folder', 'w.safetensors'])
def test_pretraining_checks_its_words_before_it_renders(tmp_path, capsys, name):
    (tmp_path / 'folder').mkdir()
    words = ['pretrain', '--output', tmp_path / name, '--data-dir', tmp_path / 'worlds']
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mcl.data.load_dataset', lambda *_, **__: pytest.fail('a world was asked for'))
        status, _, said = ended([*words, '--epochs', -1], capsys)
    assert status == 2 and ('epochs is -1' if name == 'w.safetensors' else '.safetensors') in said


@pytest.fixture(scope='module')
def finished(tiny, tmp_path_factory):
    "A run on the tiny world."
    folder = tmp_path_factory.mktemp('run') / 'run'
    short = TrainConfig(method='full', epochs=1, steps_per_epoch=1, p=2, k=2, k1=6, k2=2, min_samples=2)
    train(short, tiny, folder, progress=False)
    return folder


def test_a_report_refuses_other_images(finished, tiny, tmp_path, capsys):
    other = shutil.copytree(tiny.root, tmp_path / 'other')
    words = ['report', finished, '--data-dir', other, '--images', 10, '--output', tmp_path / 'r.html']
    assert ended(words, capsys)[0] == 0
    (tmp_path / 'r.html').unlink()
    first, second = sorted((other / 'bounding_box_train').iterdir())[:2]
    first.write_bytes(second.read_bytes() + b' ')
    for change in (lambda: None, first.unlink):
        change()
        status, _, told = ended(words, capsys)
        assert status == 2 and str(tiny.root) in told and str(other) in told
        assert not (tmp_path / 'r.html').exists()


@pytest.fixture
def crops(tiny, tmp_path, monkeypatch):
    "A folder of crops, and their features and names made from that folder."
    (tmp_path / 'there' / 'crops').mkdir(parents=True)
    for sample in tiny.query:
        shutil.copy(sample.path, tmp_path / 'there' / 'crops')
    monkeypatch.chdir(tmp_path / 'there')
    with pytest.raises(SystemExit, match='^0$'):
        main(['features', 'source', 'crops', 'f.npy'])
    paths = sorted(Path('crops').iterdir())
    Path('f.txt').write_text(''.join(f'{path}\n' for path in paths))
    return paths


def test_names_of_features_are_found_from_another_folder(crops, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ['search', 'source', Path('there', crops[0]), 'there/f.npy', '--output', 'found']
    status, _, told = ended(words, capsys)
    assert status == 0 and 'lies neither' not in told
    with open('found/matches.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert rows and all(row['path'] != row['query'] and Path(row['path']).exists() for row in rows)
    shutil.copy('there/f.npy', 'f.npy')
    shutil.copy('there/f.txt', 'f.txt')
    status, _, told = ended([*words[:3], 'f.npy', *words[4:]], capsys)
    assert status == 0 and 'the first image of f.npy, lies neither' in told


def test_a_threshold_of_features_is_found_once(crops, capsys, monkeypatch):
    import mcl.search

    found = []
    monkeypatch.setattr(mcl.search, 'threshold_of', lambda *_, **__: found.append(0.5) or 0.5)
    words = ['search', 'source', crops[0], 'f.npy', '--output', 'found']
    for _ in range(2):
        assert '0.50 or more' in ended(words, capsys)[1]
    assert found == [0.5]
    np.save('f.npy', np.load('f.npy')[:, ::-1].copy())
    ended(words, capsys)
    assert found == [0.5, 0.5]
