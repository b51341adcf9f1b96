"""A folder of labelled crops, from a table to a score."""
import csv
import json
import shutil

import pytest

from mcl.cli import main
from mcl.data import load_dataset

SHORT = ('--method', 'full')
SHORT += tuple(word for name in ('epochs=1', 'steps_per_epoch=2', 'p=4', 'k1=10') for word in ('--set', name))
COLUMNS = ('path', 'pid', 'camid', 'time', 'split')


@pytest.fixture(scope='module')
def crops(tmp_path_factory):
    "A tiny world as a plain folder, its names without meaning, and a table that has it all."
    world = load_dataset('pedworld-tiny', root=tmp_path_factory.mktemp('worlds'), progress=False)
    folder, rows = tmp_path_factory.mktemp('mine') / 'crops', []
    folder.mkdir()
    for split in ('train', 'query', 'gallery'):
        for sample in getattr(world, split):
            name = f'{len(rows):04d}.png'
            shutil.copyfile(sample.path, folder / name)
            pid = '' if sample.pid < 0 else sample.pid
            if split == 'train' or pid != '':
                rows.append((name, pid, sample.camid, sample.time, split))
            else:
                (folder / name).unlink()
    return folder, rows, world


def table_of(path, rows):
    with open(path, 'w', newline='') as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return path


def run(*words):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code


def test_from_a_table_to_a_score(crops, tmp_path, capsys):
    folder, rows, world = crops
    table = table_of(tmp_path / 'crops.csv', rows)
    found = load_dataset(folder, table=table)
    assert [(s.pid, s.camid) for s in found.query] == [(s.pid, s.camid) for s in world.query]
    assert run('train', '--data-dir', folder, '--table', table, '--run-dir', tmp_path / 'run', *SHORT) == 0
    record = json.loads((tmp_path / 'run' / 'record.json').read_text())
    capsys.readouterr()
    assert run('evaluate', tmp_path / 'run', '--data-dir', folder, '--table', table) == 0
    assert f'mAP {record["mAP"]:.2f}' in capsys.readouterr().out


def test_crops_of_one_camera_are_scored_and_a_line_says_how(crops, tmp_path, capsys):
    folder, rows, _ = crops
    table = table_of(tmp_path / 'one.csv', [(*row[:2], '', *row[3:]) for row in rows])
    assert run('train', '--data-dir', folder, '--table', table, '--run-dir', tmp_path / 'run', *SHORT) == 0
    assert 'mcl: all images come from one camera' in capsys.readouterr().err


def test_matches_under_one_camera_count_on_request(crops, tmp_path, capsys):
    folder, rows, _ = crops
    table = table_of(tmp_path / 'crops.csv', rows)
    run('train', '--data-dir', folder, '--table', table, '--run-dir', tmp_path / 'run', *SHORT)
    capsys.readouterr()
    scores = []
    for more in ((), ('--same-camera',)):
        assert run('evaluate', tmp_path / 'run', '--data-dir', folder, '--table', table, *more) == 0
        scores.append(capsys.readouterr().out)
    assert scores[0] != scores[1]


def test_what_is_missing_is_said(crops, tmp_path, capsys):
    folder, rows, _ = crops
    table = table_of(tmp_path / 'crops.csv', [(*row[:4], 'train') for row in rows])
    run('train', '--data-dir', folder, '--table', table, '--run-dir', tmp_path / 'run', *SHORT)
    capsys.readouterr()
    assert run('evaluate', tmp_path / 'run', '--data-dir', folder, '--table', table) == 2
    assert 'has no images in split' in (said := capsys.readouterr().err) and 'column split' in said
    assert run('evaluate', tmp_path / 'run', '--data-dir', folder, '--pattern', '(?P<splt>a)') == 2
    assert 'did you mean split?' in capsys.readouterr().err
