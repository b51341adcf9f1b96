"""The command line as a new user drives it, wrong paths and all."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mcl.cli import main
from mcl.commands import app
from mcl.studies import study_runs

SHORT = [
    word
    for setting in ('epochs=1', 'steps_per_epoch=2', 'p=4', 'n_subsets=2', 'k1=10', 'k2=3')
    for word in ('--set', setting)
]
COMMANDS = 'pedworld train evaluate features export cluster annotate map search'.split()
COMMANDS += 'report pretrain reproduce'.split()


def mcl(*words, cwd=None):
    return subprocess.run(
        [sys.executable, '-c', 'from mcl.cli import main; main()', *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
    )


def refused(*words, cwd):
    "The one line a failed command prints; in this process, since starting another takes seconds."
    said, before = io.StringIO(), os.getcwd()
    os.chdir(cwd)
    try:
        with (
            contextlib.redirect_stderr(said),
            contextlib.redirect_stdout(io.StringIO()),
            pytest.raises(SystemExit) as ended,
        ):
            main([*map(str, words)])
    finally:
        os.chdir(before)
    assert ended.value.code == 2, said.getvalue()
    return ' '.join(said.getvalue().split())


@pytest.mark.parametrize('command', COMMANDS)
def test_help_shows_an_example(command):
    assert f'Example: mcl {command}' in ' '.join(CliRunner().invoke(app, [command, '--help']).stdout.split())


def test_help_lists_every_command():
    text = mcl('--help').stdout
    assert all(command in text for command in COMMANDS)


def features(n=200, d=16, people=10, seed=0):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(people, d))[np.arange(n) % people] + 0.1 * rng.normal(size=(n, d))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def test_cluster_then_annotate(tmp_path):
    np.save(tmp_path / 'f.npy', features())
    np.save(tmp_path / 'first.npy', features()[:100])
    done = mcl('cluster', 'first.npy', 'l.npy', '--k1', 8, cwd=tmp_path)
    assert '10 clusters' in done.stdout, done
    done = mcl('annotate', 'f.npy', 'l.npy', 's.npz', '--top-k', 3, cwd=tmp_path)
    soft = np.load(tmp_path / 's.npz')
    labels = np.load(tmp_path / 'l.npy')
    assert soft['probabilities'].shape == soft['prototypes'].shape == (200, 3)
    assert np.array_equal(soft['prototypes'][:100, 0], labels) and np.array_equal(
        soft['prototypes'][100:, 0], labels
    )
    done = mcl('annotate', 'f.npy', 'l.npy', 'shards', '--top-k', 3, cwd=tmp_path)
    assert '200 soft labels over 10 meta-prototypes' in done.stdout, done
    assert np.array_equal(np.load(tmp_path / 'shards' / 'part-00000.prototypes.npy'), soft['prototypes'])


def test_a_set_that_grows_has_the_labels_of_a_fresh_clustering(tmp_path):
    rows, options = features(), ('--k1', 10, '--k2', 3)
    for name, part in (('old', rows[:150]), ('new', rows[150:]), ('all', rows)):
        np.save(tmp_path / f'{name}.npy', part)
    for name in ('old', 'new'):
        done = mcl('cluster', f'{name}.npy', 'labels.npy', '--update', 'state.npz', *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert '200 images' in done.stdout
    assert mcl('cluster', 'all.npy', 'fresh.npy', *options, cwd=tmp_path).returncode == 0
    assert (tmp_path / 'labels.npy').read_bytes() == (tmp_path / 'fresh.npy').read_bytes()
    words = ('cluster', 'new.npy', 'labels.npy', '--update', 'state.npz')
    assert 'add --k1 10 --k2 3' in refused(*words, cwd=tmp_path)
    assert 'was this call made before' in refused(*words, *options, cwd=tmp_path)


def test_a_map_from_images_and_from_their_features(tiny, tmp_path):
    crops = tiny.query[0].path.parent
    assert mcl('features', 'source', crops, 'crops.npy', cwd=tmp_path).returncode == 0
    words = ('--layout', 'pca', '--k1', 10, '--k2', 3)
    assert mcl('map', 'crops.npy', 'a.csv', *words, cwd=tmp_path).returncode == 0
    done = mcl('map', 'source', 'b.csv', '--data-dir', crops, *words, cwd=tmp_path)
    assert done.returncode == 0 and f'{len(tiny.query)} images' in done.stdout, done.stderr
    assert (tmp_path / 'a.csv').read_bytes() == (tmp_path / 'b.csv').read_bytes()


@pytest.mark.parametrize(
    'words, said',
    [
        (['cluster', 'a', 'b', '--epss', '3'], 'cluster has no option --epss: did you mean --eps?'),
        (['clster'], 'no command clster: did you mean cluster?'),
        (['cluster'], 'cluster needs FEATURES'),
        (['cluster', 'a', 'b', '--k1', 'x'], "cluster: invalid value for '--k1'"),
        (['cluster', 'a', 'b', 'c'], 'cluster: got unexpected extra argument'),
        (['train', '--epochs'], "Option '--epochs' requires an argument"),
        (['--nosuch'], 'mcl has no option --nosuch'),
    ],
)
def test_a_mistake_in_the_words_is_one_line(words, said, tmp_path):
    done = mcl(*words, cwd=tmp_path)
    assert done.returncode == 2 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith(f'mcl: {said}')


def test_nan_features_are_named_and_nothing_is_written(tmp_path):
    bad = features()
    bad[17, 3] = np.nan
    np.save(tmp_path / 'f.npy', bad)
    done = mcl('cluster', 'f.npy', 'l.npy', cwd=tmp_path)
    assert done.returncode == 2 and '17' in done.stderr and 'Traceback' not in done.stderr, done
    assert sorted(p.name for p in tmp_path.iterdir()) == ['f.npy']


def test_rows_of_any_length_are_clustered_on_demand_and_the_message_says_how(tmp_path):
    np.save(tmp_path / 'f.npy', 3 * features())
    assert '--normalise' in refused('cluster', 'f.npy', 'l.npy', cwd=tmp_path)
    done = mcl('cluster', 'f.npy', 'l.npy', '--k1', 8, '--normalise', '--clusterer', 'dbscan', cwd=tmp_path)
    assert '10 clusters' in done.stdout, done
    assert 'leiden' in refused(
        'cluster', 'f.npy', 'l.npy', '--normalise', '--clusterer', 'agglomerative', cwd=tmp_path
    )


def test_an_unfinished_study_keeps_the_results_that_are_there(tmp_path, monkeypatch):
    run = study_runs('ablations', 'desk')[0]
    results, record = (
        tmp_path / 'figures/results/ablations.json',
        tmp_path / 'runs' / run.folder / 'record.json',
    )
    shipped = Path(__file__).parent.parent / 'figures/results/ablations.json'
    for path in (results, record):
        path.parent.mkdir(parents=True)
    shutil.copy(shipped, results)
    finished = {
        key: value
        for key, value in json.loads(shipped.read_text())['runs'][0].items()
        if key not in ('study', 'variant')
    }
    record.write_text(json.dumps(dict(finished, config=vars(run.config))))
    monkeypatch.chdir(tmp_path)
    gather = ['reproduce', '--study', 'ablations', '--no-missing']
    beside = Path('runs/desk/unfinished/results/ablations.json')
    said = CliRunner().invoke(app, gather).stdout
    assert 'holds more runs and was kept' in said and str(beside) in said
    assert results.read_bytes() == shipped.read_bytes() and len(json.loads(beside.read_text())['runs']) == 1
    results.unlink()
    assert 'was kept' not in CliRunner().invoke(app, gather).stdout
    assert len(json.loads(results.read_text())['runs']) == 1 and not beside.exists()


def test_missing_files_and_folders_are_named(tmp_path):
    assert 'nowhere.npy' in refused('cluster', 'nowhere.npy', 'l.npy', cwd=tmp_path)
    assert 'nowhere' in refused('train', '--dataset', 'nowhere', cwd=tmp_path)
    assert 'nowhere' in refused('evaluate', 'nowhere', cwd=tmp_path)
    assert 'market1501' in refused('train', '--dataset', 'market1501', '--data-dir', 'nowhere', cwd=tmp_path)
    assert not list(tmp_path.iterdir())


def test_unknown_names_list_the_known_ones(tmp_path):
    assert 'desk' in refused('pedworld', 'nosuch', cwd=tmp_path)
    assert 'subset_matched' in refused('train', '--method', 'nosuch', cwd=tmp_path)
    assert 'tiny, desk' in refused('reproduce', '--preset', 'nosuch', cwd=tmp_path)
    assert 'n_subsets' in refused('train', '--set', 'nosuch=1', cwd=tmp_path)
    assert 'market1501' in refused('train', '--recipe', 'nosuch', cwd=tmp_path)
    assert 'images_per_id' in refused('train', '--dataset', 'pedworld-tiny-images_per=3', cwd=tmp_path)


def test_an_existing_folder_is_not_overwritten(tmp_path):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.txt').write_text('years of work')
    assert 'mine' in refused('pedworld', 'tiny', '--output', 'mine', cwd=tmp_path)
    assert [p.name for p in (tmp_path / 'mine').iterdir()] == ['thesis.txt']


def test_train_then_evaluate_agree(worlds, tiny, tmp_path):
    common = ['--dataset', 'pedworld-tiny', '--data-dir', worlds]
    trained = mcl('train', *common, '--run-dir', tmp_path / 'run', *SHORT)
    evaluated = mcl('evaluate', tmp_path / 'run', *common)
    number = lambda text: text.split('mAP')[1].split()[0]
    assert number(trained.stdout) == number(evaluated.stdout), (trained, evaluated)
    assert 'mAP' in mcl('evaluate', tmp_path / 'run', *common, '--rerank').stdout


def test_train_on_a_plain_folder_that_tells_no_time(tiny, tmp_path):
    (tmp_path / 'crops').mkdir()
    for i, sample in enumerate(tiny.train):
        (tmp_path / 'crops' / f'{i:04d}.jpg').symlink_to(sample.path.resolve())
    done = mcl('train', '--data-dir', 'crops', '--run-dir', 'run', *SHORT, cwd=tmp_path)
    assert 'no time' in done.stdout and 'method full' in done.stdout and 'mAP' not in done.stdout, done
    said = refused(
        'train', '--data-dir', 'crops', '--run-dir', 'other', '--method', 'mcl', *SHORT, cwd=tmp_path
    )
    assert '0000.jpg' in said and 'split_by=random' in said and 'Sample(' not in said, said
    assert not (tmp_path / 'other' / 'record.json').exists()


def test_a_warning_is_one_line(worlds, tiny, tmp_path):
    world = next(path for path in worlds.rglob('bounding_box_train')).parent
    done = mcl(
        'train',
        '--dataset',
        'market1501',
        '--data-dir',
        world,
        '--recipe',
        'none',
        '--run-dir',
        'run',
        *SHORT,
        cwd=tmp_path,
    )
    warning = next(
        line for line in done.stderr.replace('\r', '\n').splitlines() if 'published data set' in line
    )
    assert warning.startswith('mcl: market1501') and 'UserWarning' not in done.stderr, done


def test_train_on_a_plain_folder_with_a_table(tiny, tmp_path):
    lines = ['path,camid,time']
    for i, sample in enumerate(tiny.train):
        path = tmp_path / 'crops' / f'camera{sample.camid}' / f'{i:04d}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(sample.path.resolve())
        lines.append(
            f'{path.relative_to(tmp_path / "crops").as_posix()},{10 * sample.camid},{3600 * sample.time}'
        )
    (tmp_path / 'crops.csv').write_text('\n'.join(lines) + '\n')
    done = mcl(
        'train', '--data-dir', 'crops', '--table', 'crops.csv', '--run-dir', 'run', *SHORT, cwd=tmp_path
    )
    assert 'n_clusters' in done.stdout and 'mAP' not in done.stdout, done
    assert 'label_stability' not in done.stdout and 'outlier_rate' in done.stdout
    assert (tmp_path / 'run' / 'model.safetensors').exists()
    done = mcl('report', 'run', '--data-dir', 'crops', '--table', 'crops.csv', cwd=tmp_path)
    page = (tmp_path / 'run' / 'report.html').read_text()
    assert page.count('src="data:image/png') == 2 and 'mcl on crops' in page, done
    assert 'images are shown' in page and 'camera1/0' in page
    assert '--data-dir' in refused('report', 'run', cwd=tmp_path)
    assert 'record.json' in refused('report', 'crops', '--data-dir', 'crops', cwd=tmp_path)
    (tmp_path / 'crops.csv').write_text('\n'.join(lines[:-1]) + '\n')
    assert f'no line for 1 of {len(tiny.train)} images' in refused(
        'train', '--data-dir', 'crops', '--table', 'crops.csv', '--run-dir', 'other', cwd=tmp_path
    )
    assert not (tmp_path / 'other').exists()
