"""A run belongs to its data and to one process, and is not trained over."""
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from mcl.cli import main
from mcl.config import TINY, TrainConfig
from mcl.data import load_dataset
from mcl.run_folders import only_here
from mcl.studies import run_study
from mcl.training import train

SHORT = replace(TrainConfig(**TINY), epochs=1, steps_per_epoch=2)


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    return load_dataset('pedworld-tiny', root=tmp_path_factory.mktemp('worlds'), progress=False)


@pytest.fixture(scope='module')
def finished(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs') / 'finished'
    train(SHORT, world, folder, progress=False)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    "A finished run that a test may spoil."
    return shutil.copytree(finished, tmp_path / 'run')


def said(capsys, *words):
    "The one line on standard error of a command that is refused."
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    lines = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 2 and len(lines) == 1 and lines[0].startswith('mcl: '), lines
    return lines[0]


def test_a_run_goes_on_with_its_own_images_wherever_they_lie(world, run, tmp_path):
    moved = shutil.copytree(world.root, tmp_path / 'moved')
    record = train(SHORT, load_dataset(str(moved)), run, resume=True, progress=False).record
    assert record['mAP'] == json.loads((run / 'record.json').read_text())['mAP']


def test_other_images_under_the_same_names_are_refused_and_both_folders_named(world, run, tmp_path):
    changed = shutil.copytree(world.root, tmp_path / 'changed')
    images = sorted((changed / 'bounding_box_train').iterdir())
    shutil.copyfile(images[-1], images[0])
    with pytest.raises(ValueError, match='begun with the images of') as problem:
        train(SHORT, load_dataset(str(changed)), run, resume=True, progress=False)
    assert str(world.root) in str(problem.value) and str(changed) in str(problem.value)


def test_fewer_images_are_refused(world, run):
    with pytest.raises(ValueError, match='images then'):
        train(SHORT, replace(world, train=world.train[1:]), run, resume=True, progress=False)


def test_runs_from_before_there_was_a_note_go_on(world, run):
    (run / 'data.json').unlink()
    train(SHORT, world, run, resume=True, progress=False)
    assert json.loads((run / 'data.json').read_text())['images'] > 0


@pytest.mark.parametrize('resume', (False, True))
def test_a_finished_run_without_its_checkpoint_is_not_trained_over(world, run, resume):
    (run / 'checkpoint.pt').unlink()
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(FileExistsError, match='whose checkpoint.pt is gone'):
        train(SHORT, world, run, resume=resume, progress=False)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


HOLD = '''
import sys, time
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print('held', flush=True)
time.sleep(60)
'''


def test_a_second_process_in_a_run_folder_is_refused_until_the_first_has_died(world, tmp_path):
    folder = tmp_path / 'run'
    folder.mkdir()
    command = [sys.executable, '-c', HOLD, str(folder / '.lock')]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as first:
        first.stdout.readline()
        with pytest.raises(ValueError, match='another process is at work'):
            train(SHORT, world, folder, progress=False)
        first.kill()
        first.wait()
    assert train(SHORT, world, folder, progress=False).record['mAP'] > 0


def test_a_damaged_note_is_named(world, run):
    (run / 'data.json').write_text('[]')
    with pytest.raises(ValueError, match='data.json is damaged'):
        train(SHORT, world, run, resume=True, progress=False)


@pytest.mark.parametrize('damage', ('[]', '3', '{"config": 1}', '{'))
def test_a_damaged_record_is_named_by_every_command_that_reads_one(world, run, capsys, damage):
    (run / 'record.json').write_text(damage)
    for words in (('features', run, world.root, run / 'f.npy'), ('report', run, '--data-dir', world.root)):
        assert 'record.json' in said(capsys, *words)


def test_a_record_counts_the_images_it_has_seen(world):
    few = replace(SHORT, p=30, k=2, method='full')
    with pytest.warns(UserWarning, match='fewer clusters than p'):
        record = train(few, world, progress=False).record
    assert 0 < record['images_seen'] < few.epochs * few.steps_per_epoch * few.p * few.k


def test_a_study_does_not_go_on_with_another_folder(world, tmp_path, monkeypatch):
    import mcl.studies as studies
    from mcl.studies import StudyRun

    runs = [
        StudyRun(str(seed), 'market1501', replace(SHORT, seed=seed), f'market1501/{seed}') for seed in (1, 2)
    ]
    other = shutil.copytree(world.root, tmp_path / 'other')
    first = sorted((other / 'query').iterdir())[0]
    first.write_bytes(first.read_bytes() + b' ')
    named = lambda name, root: replace(load_dataset(str(root)), name=name)
    monkeypatch.setattr(studies, 'load_dataset', named)
    monkeypatch.setattr(studies, 'study_runs', lambda study, preset: runs[:1])
    run_study('market1501', 'tiny', tmp_path / 'work', tmp_path / 'real.json', data_dir=world.root)
    monkeypatch.setattr(studies, 'study_runs', lambda study, preset: runs)
    with pytest.raises(ValueError, match='begun with the images of') as problem:
        run_study('market1501', 'tiny', tmp_path / 'work', tmp_path / 'real.json', data_dir=other)
    assert str(world.root) in str(problem.value) and str(other) in str(problem.value)


def test_an_annotation_into_a_folder_that_cannot_be_made_is_refused_first(tmp_path, capsys):
    (tmp_path / 'file').write_text('mine')
    words = 'annotate', tmp_path / 'no.npy', tmp_path / 'no_labels.npy', tmp_path / 'file' / 'soft'
    assert 'file' in said(capsys, *words) and (tmp_path / 'file').read_text() == 'mine'


def test_a_broken_crop_ends_no_command_that_may_leave_it_out(world, tmp_path, capsys):
    "The record names it; report and features say so; without the option, each command names it and stops."
    root, run = shutil.copytree(world.root, tmp_path / 'crops'), tmp_path / 'run'
    broken = sorted((root / 'bounding_box_train').iterdir())[4]
    broken.write_bytes(b'no image')
    short = ['--epochs', 1, '--steps-per-epoch', 2, '--p', 4, '--method', 'full']
    commands = [
        ['train', '--data-dir', root, '--run-dir', run, *short],
        ['report', run, '--data-dir', root, '--images', 20],
        ['features', run, root, tmp_path / 'f.npy'],
    ]
    for command in commands:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in command])
        assert ended.value.code == 2 and broken.name in capsys.readouterr().err
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in (*command, '--on-error', 'skip')])
        assert ended.value.code in (0, None)
    left_out = json.loads((run / 'record.json').read_text())['left_out']
    assert left_out == {'train': dict(images=1, first=[f'bounding_box_train/{broken.name}'])}
    assert broken.name in (run / 'report.html').read_text()
    assert broken.name not in (tmp_path / 'f.txt').read_text()


def test_features_go_on_after_a_kill_and_are_those_of_an_unbroken_command(world, finished, tmp_path, capsys):
    import mcl.extraction as extraction

    words, lost = ['features', str(finished), str(world.root)], []
    write = extraction.write_block

    def fails_late(file, *arguments):
        if file.name.startswith('000005'):
            raise OSError(5, 'Input/output error')
        lost.append(file.name)
        write(file, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extraction, 'BLOCK', 20)
        with pytest.raises(SystemExit, match='^0$'):
            main([*words, str(tmp_path / 'whole.npy')])
        patch.setattr(extraction, 'write_block', fails_late)
        with pytest.raises(SystemExit, match='^2$'):
            main([*words, str(tmp_path / 'f.npy')])
        assert not (tmp_path / 'f.npy').exists() and not (tmp_path / 'f.txt').exists()
        before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / 'f.npy.blocks').glob('0*')}
        assert sorted(before) == lost
        patch.setattr(extraction, 'write_block', write)
        with pytest.raises(SystemExit, match='^0$'):
            main([*words, str(tmp_path / 'f.npy')])
    assert (tmp_path / 'f.npy').read_bytes() == (tmp_path / 'whole.npy').read_bytes()
    assert (tmp_path / 'f.txt').read_bytes() == (tmp_path / 'whole.txt').read_bytes()
    assert not (tmp_path / 'f.npy.blocks').exists()


def test_a_study_knows_its_images_when_the_note_is_lost(world, tmp_path, monkeypatch):
    import mcl.studies as studies
    from mcl.studies import StudyRun

    run = StudyRun('1', 'market1501', replace(SHORT, seed=1), 'market1501/1')
    named = lambda name, root: replace(load_dataset(str(root)), name=name)
    monkeypatch.setattr(studies, 'load_dataset', named)
    monkeypatch.setattr(studies, 'study_runs', lambda study, preset: [run])
    run_study('market1501', 'tiny', tmp_path / 'work', tmp_path / 'real.json', data_dir=world.root)
    other = shutil.copytree(world.root, tmp_path / 'other')
    sorted((other / 'query').iterdir())[0].unlink()
    note = tmp_path / 'work' / 'market1501' / '1' / 'data.json'
    note.unlink()
    with pytest.raises(ValueError, match='made with other images') as problem:
        run_study('market1501', 'tiny', tmp_path / 'work', tmp_path / 'other.json', data_dir=other)
    assert str(note.parent) in str(problem.value) and str(other) in str(problem.value)
    assert not note.exists()


def test_a_study_names_a_missing_package_before_its_first_run(tmp_path, monkeypatch):
    monkeypatch.setattr('mcl.core.find_spec', lambda name: None)
    with pytest.raises(ImportError, match=r'mcl-reid\[imagenet\]'):
        run_study('market1501_networks', 'desk', tmp_path / 'work', tmp_path / 'real.json', data_dir=tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_refused_run_leaves_nothing_behind(tmp_path, capsys):
    complaint = said(capsys, 'train', '--data-dir', tmp_path / 'none', '--run-dir', tmp_path / 'run')
    assert 'none' in complaint and not any(tmp_path.iterdir())
    with pytest.raises(ValueError), only_here(tmp_path / 'run'):
        raise ValueError
    assert not any(tmp_path.iterdir())
    with only_here(tmp_path / 'run'):
        (tmp_path / 'run' / 'notes.txt').write_text('mine')
    assert (tmp_path / 'run' / 'notes.txt').exists()


@pytest.mark.parametrize('words', [['--data-dir', ''], ['--data-dir='], ['--eps', '']])
def test_a_variable_of_the_shell_that_is_not_set(words, capsys):
    assert 'an empty value' in said(capsys, 'train', *words)


def test_numbers_that_a_clusterer_does_not_read_are_refused(tmp_path, capsys):
    np.save(tmp_path / 'f.npy', np.eye(40, dtype=np.float32))
    complaint = said(capsys, 'cluster', tmp_path / 'f.npy', tmp_path / 'l.npy', '--n-clusters', -1)
    assert '--n-clusters is for --clusterer kmeans alone' in complaint
    assert not (tmp_path / 'l.npy').exists()


@pytest.mark.parametrize(
    'change, words', [(np.nan, 'row 3 is not finite'), (0, 'row 3 is all zeros'), (2, 'row 3 has length 2')]
)
def test_a_row_that_cannot_be_annotated_is_named_with_its_file(change, words, tmp_path, capsys):
    rows = np.eye(40, dtype=np.float32)
    rows[3] *= change
    np.save(tmp_path / 'f.npy', rows)
    np.save(tmp_path / 'l.npy', np.repeat(np.arange(4), 10))
    complaint = said(capsys, 'annotate', tmp_path / 'f.npy', tmp_path / 'l.npy', tmp_path / 'soft.npz')
    assert words in complaint and str(tmp_path / 'f.npy') in complaint
