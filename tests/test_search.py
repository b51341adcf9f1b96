"""Which of these images show this person: an index between calls, a list and a picture."""
import csv
import shutil

import numpy as np
import pytest
from PIL import Image

from mcl.cli import main
from mcl.data import load_dataset


@pytest.fixture(scope='module')
def crops(tmp_path_factory):
    "A gallery and queries of a tiny world, in plain folders, their names without meaning."
    world = load_dataset('pedworld-tiny', root=tmp_path_factory.mktemp('worlds'), progress=False)
    root = tmp_path_factory.mktemp('mine')
    (root / 'gallery' / 'more').mkdir(parents=True)
    person = {}
    for number, sample in enumerate(s for s in world.gallery if s.pid > 0):
        name = f'gallery/{"more/" * (number % 2)}{number:03d}.jpg'
        shutil.copyfile(sample.path, root / name)
        person[name] = sample.pid
    shutil.copyfile(world.query[0].path, root / 'query.jpg')
    (root / 'queries').mkdir()
    wanted = {f'queries/{number}.jpg': sample.pid for number, sample in enumerate(world.query)}
    for name, sample in zip(wanted, world.query):
        shutil.copyfile(sample.path, root / name)
    return root, person, wanted


@pytest.fixture
def place(crops, tmp_path, monkeypatch):
    "A copy of the crops, from which commands run."
    shutil.copytree(crops[0], tmp_path / 'mine')
    monkeypatch.chdir(tmp_path / 'mine')
    return tmp_path / 'mine'


def run(*words):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code


def search(*words):
    return run('search', 'source', *words, '--output', 'found')


def rows_of(folder):
    with open(folder / 'matches.csv', newline='') as file:
        return list(csv.DictReader(file))


def last_line(capsys):
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_people_are_found(crops, place):
    assert search('queries', 'gallery', '--top', 1000) == 0
    rows, (_, person, wanted) = rows_of(place / 'found'), crops
    assert len(rows) == len(wanted) * len(person) and rows[0]['rank'] == '1'
    for query in wanted:
        own = [row for row in rows if row['query'] == query]
        assert sorted(row['path'] for row in own) == sorted(person)
        values = [float(row['similarity']) for row in own]
        assert values == sorted(values, reverse=True)
    right = np.array([person[row['path']] == wanted[row['query']] for row in rows])
    within = np.array([row['within_threshold'] == 'yes' for row in rows])
    assert within.any() and not within.all() and right[within].mean() > 3 * right.mean()
    with Image.open(place / 'found' / 'sheet.png') as sheet:
        assert min(sheet.size) > 500


def test_only_new_images_are_looked_at(place, capsys):
    assert search('query.jpg', 'gallery') == 0
    number = len(list((place / 'gallery').rglob('*.jpg')))
    assert f'{number} images in gallery, {number} of them looked at now' in capsys.readouterr().out
    before = rows_of(place / 'found')
    assert search('query.jpg', 'gallery') == 0
    assert f'{number} images in gallery, 0 of them looked at now' in capsys.readouterr().out
    assert rows_of(place / 'found') == before
    shutil.copyfile(place / 'query.jpg', place / 'gallery' / 'new.jpg')
    (place / before[0]['path']).unlink()
    assert search('query.jpg', 'gallery') == 0
    assert f'{number} images in gallery, 1 of them looked at now' in capsys.readouterr().out
    after = [row['path'] for row in rows_of(place / 'found')]
    assert after[0] == 'gallery/new.jpg' and before[0]['path'] not in after
    assert search('query.jpg', 'gallery', '--height', 48) == 0     # other images for the network, other index
    assert f'{number} of them looked at now' in capsys.readouterr().out


def test_features_on_disk_are_a_gallery(place):
    assert run('features', 'source', 'gallery', 'features.npy') == 0
    assert search('query.jpg', 'gallery') == 0
    images = rows_of(place / 'found')
    assert search('query.jpg', 'features.npy') == 0
    assert [row['path'] for row in rows_of(place / 'found')] == [row['path'] for row in images]
    np.save('other.npy', np.eye(4, dtype='f4'))
    (place / 'other.txt').write_text('a\nb\nc\nd\n')
    assert search('query.jpg', 'other.npy') == 2


def test_a_query_is_not_its_own_match(place):
    assert search('gallery', 'gallery', '--top', 3) == 0
    rows = rows_of(place / 'found')
    assert len(rows) == 3 * len(list((place / 'gallery').rglob('*.jpg')))
    assert not [row for row in rows if row['query'] == row['path']]


def test_a_threshold_of_ones_own(place, capsys):
    assert search('query.jpg', 'gallery', '--threshold', 0.9999) == 0
    assert {row['within_threshold'] for row in rows_of(place / 'found')} == {'no'}
    for path in list((place / 'gallery').rglob('*.jpg'))[2:]:
        path.unlink()
    assert search('query.jpg', 'gallery') == 0
    assert 'too few clusters' in capsys.readouterr().out
    assert {row['within_threshold'] for row in rows_of(place / 'found')} == {''}


def test_a_damaged_index_is_made_anew(place, capsys):
    assert search('query.jpg', 'gallery') == 0
    before = rows_of(place / 'found')
    (index,) = (place / 'runs' / 'index').iterdir()
    index.write_bytes(index.read_bytes()[:500])
    assert search('query.jpg', 'gallery') == 0
    assert 'made anew' in capsys.readouterr().err and rows_of(place / 'found') == before


@pytest.mark.parametrize(
    'words, told',
    [
        (('nobody.jpg', 'gallery'), 'nobody.jpg does not exist'),
        (('query.jpg', 'nowhere'), 'nowhere is no gallery'),
        (('query.jpg', 'query.jpg'), 'query.jpg is no gallery'),
        (('query.jpg', 'nothing.npy'), 'nothing.npy is not a file'),
        (('query.jpg', 'empty'), 'holds no .jpg'),
        (('empty', 'gallery'), 'holds no .jpg'),
        (('broken.jpg', 'gallery'), 'broken.jpg: cannot be read'),
        (('broken.jpg', 'gallery', '--on-error', 'skip'), 'no image can be read'),
        (('query.jpg', 'gallery', '--on-error', 'no'), 'unknown --on-error'),
        (('query.jpg', 'gallery', '--top', '0'), '--top is 0'),
        (('query.jpg', 'gallery', '--threshold', 'much'), "threshold is 'much'"),
        (('query.jpg', 'gallery', '--output', 'gallery/found'), 'lies in gallery'),
        (('query.jpg', 'gallery', '--output', 'query.jpg'), 'it is a file'),
    ],
)
def test_bad_input_is_named_in_one_line(place, capsys, words, told):
    (place / 'empty').mkdir()
    (place / 'broken.jpg').write_bytes(b'broken')
    output = () if '--output' in words else ('--output', 'found')
    assert run('search', 'source', *words, *output) == 2
    assert told in last_line(capsys) and not (place / 'found').exists()


def test_unreadable_images_of_a_gallery(place, capsys):
    (place / 'gallery' / 'broken.jpg').write_bytes(b'broken')
    assert search('query.jpg', 'gallery') == 2
    assert 'gallery/broken.jpg' in last_line(capsys)
    for _ in range(2):     # the second time, the unreadable image is the only one that is new
        assert search('query.jpg', 'gallery', '--on-error', 'skip') == 0
    assert 'gallery/broken.jpg' not in [row['path'] for row in rows_of(place / 'found')]
