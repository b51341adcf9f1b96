"""Commands that are killed, or stopped by Ctrl-C, at random moments: the same command goes on, and ends where
an unbroken one does, file by file.

`pytest tests/test_kills.py --kills 30` tries more moments; they are the same fractions of a run each time.
"""

import contextlib
import io
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import bounds
import numpy as np
import pytest
import torch

from mcl.cli import GOES_ON, main
from mcl.pedworld import render
from mcl.world import World

pytestmark = pytest.mark.filterwarnings('default')  # of the command line, they are lines on standard error
SMALL = World(8, 8, 3, seed=1, size=(64, 32))
SHORT = dict(epochs=2, steps_per_epoch=2, p=3, k=2, n_subsets=2, k1=6, k2=2, min_samples=2)
SETTINGS = [word for name, value in SHORT.items() for word in ('--set', f'{name}={value}')]
KILLED = {
    'train': ['train', '--data-dir', '../world', '--run-dir', 'run', '--resume', *SETTINGS],
    'features': ['features', '../run', '../world', 'f.npy'],
    'annotate': [
        'annotate',
        '--weights',
        '../run',
        '--features',
        '../f.npy',
        '--top-k',
        2,
        '--shard-rows',
        5,
        '../world/bounding_box_train',
        '../l.npy',
        'soft',
    ],
    'pedworld': ['pedworld', 'tiny', '--root', 'w'],
    'reproduce': ['reproduce', '--preset', 'tiny'],
}


def shrink():
    "Worlds and studies of the usual names in small, in this process."
    from mcl import extraction, report, studies, world

    extraction.BLOCK = 7
    world.PRESETS.update(tiny=SMALL, source=SMALL)
    studies.STUDY_PRESETS['tiny'] = (dict(SHORT, epochs=1), 1)
    seeds, variants = studies.STUDIES['reproduce']
    studies.STUDIES['reproduce'] = (seeds, dict(list(variants.items())[:2]))
    report.draw_run_pictures = lambda *_: None  # UMAP takes ten seconds, and writes pictures alone
    report.PICTURES.clear()


def command(words, folder, said):
    "What a child process does."
    os.chdir(folder)
    torch.set_num_threads(1)
    shrink()
    with open(said, 'w') as file, contextlib.redirect_stderr(file), contextlib.redirect_stdout(file):
        main([str(word) for word in words])


@pytest.fixture(scope='module')
def context():
    "Starts processes in which everything is imported already."
    found = multiprocessing.get_context('forkserver')
    found.set_forkserver_preload(
        ['mcl.cli', 'mcl.training', 'mcl.annotate', 'mcl.studies', 'mcl.report', 'pytest']
    )
    return found


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "A world, a run on it, its features and labels."
    root = tmp_path_factory.mktemp('kills')
    render(SMALL, root / 'world', progress=False)
    with in_folder(root):
        for words in (
            ['train', '--data-dir', 'world', '--run-dir', 'run', *SETTINGS],
            ['features', 'run', 'world', 'f.npy'],
            ['cluster', 'f.npy', 'l.npy', '--k1', '6', '--min-samples', '2'],
        ):
            with pytest.raises(SystemExit, match='^0$'):
                main(words)
    return root


@contextlib.contextmanager
def in_folder(folder):
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


# --- what two runs must agree in: all but seconds, and memory


def without_times(value):
    "JSON, or what a checkpoint holds, without what differs from run to run."
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if not is_time(str(key))}
    if isinstance(value, (list, tuple)):
        return [without_times(item) for item in value]
    return value.tolist() if isinstance(value, torch.Tensor) else value


def is_time(name):
    return name.endswith('_s') or name in ('seconds', 'started', 'clustering_peak_mib')


def meaning(path):
    "What is in a file, so that it can be compared with that of another run."
    if path.suffix == '.json':
        return without_times(json.loads(path.read_text()))
    if path.suffix == '.pt':
        return without_times(torch.load(path, weights_only=True))
    if path.suffix in ('.svg', '.png', '.pdf', '.md'):
        return None  # drawn from seconds as well
    return path.read_bytes()


def outcome(folder):
    return {
        str(path.relative_to(folder)): meaning(path) for path in sorted(folder.rglob('*')) if path.is_file()
    }


def start(context, lab, name, folder):
    folder.mkdir(exist_ok=True)
    child = context.Process(
        target=command, args=(KILLED[name], folder, folder.parent / f'{folder.name}.said')
    )
    child.start()
    return child


@pytest.mark.parametrize('name', KILLED)
def test_killed_at_random_moments_a_command_ends_as_an_unbroken_one_does(name, context, lab):
    rng, whole = random.Random(name), lab / f'{name}-whole'
    begun, child = time.monotonic(), start(context, lab, name, whole)
    child.join(300)
    assert child.exitcode == 0, (lab / f'{name}-whole.said').read_text()
    lasts, expected = time.monotonic() - begun, outcome(whole)
    assert expected
    for kill in range(bounds.KILLS or 2):
        folder = lab / f'{name}-{kill}'
        for _ in range(rng.choice([1, 1, 2]) if bounds.KILLS else 1):
            child = start(context, lab, name, folder)
            child.join(rng.uniform(0.2, 1) * lasts)
            child.kill()
            child.join()
        child = start(context, lab, name, folder)
        child.join(300)
        assert child.exitcode == 0, (lab / f'{name}-{kill}.said').read_text()
        assert outcome(folder) == expected, (name, kill)


# --- Ctrl-C


INTERRUPTED = {
    **KILLED,
    'cluster': ['cluster', '../many.npy', 'many-l.npy'],
    'evaluate': ['evaluate', '../run', '--dataset', '../world', '--rerank'],
    'export': ['export', '../run', 'm.pt2'],
    'report': ['report', '../run', '--data-dir', '../world', '--output', 'r.html'],
    'pretrain': ['pretrain', '--epochs', 1, '--steps', 2, '--work', 'w'],
}


def press(words, folder, after):
    "Status and standard error of a command that is interrupted after so many seconds; None: never."
    inside, err = threading.Event(), io.StringIO()

    def pressed(*_):
        if inside.is_set():
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, pressed)
    key = threading.Timer(1e6 if after is None else after, os.kill, [os.getpid(), signal.SIGINT])
    try:
        with in_folder(folder), contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
            key.start()
            inside.set()
            main([str(word) for word in words])
    except SystemExit as ended:
        inside.clear()
        return ended.code or 0, err.getvalue()
    finally:
        inside.clear()
        key.cancel()
        signal.signal(signal.SIGINT, before)


@pytest.fixture(scope='module')
def small_names():
    "As `shrink`, and undone."
    from mcl import report, studies, world

    tables = (world.PRESETS, studies.STUDY_PRESETS, studies.STUDIES, report.PICTURES)
    kept = [(table, dict(table)) for table in tables]
    drawn = report.draw_run_pictures
    shrink()
    yield
    report.draw_run_pictures = drawn
    for table, before in kept:
        table.update(before)


@pytest.mark.parametrize('name', INTERRUPTED)
def test_ctrl_c_says_how_to_go_on_and_leaves_nothing_half_written(name, lab, small_names):
    if not (lab / 'many.npy').exists():
        rows = np.random.default_rng(0).normal(size=(2000, 32)).astype(np.float32)
        np.save(lab / 'many.npy', rows / np.linalg.norm(rows, axis=1, keepdims=True))
    rng, words, lasts = random.Random(name), INTERRUPTED[name], None
    for round_ in range(2):
        begun, folder = time.monotonic(), lab / f'{name}-unbroken{round_}'
        folder.mkdir()
        status, err = press(words, folder, None)
        assert status == 0, err
        lasts = time.monotonic() - begun
    stopped, expected = 0, outcome(folder)
    for kill in range(bounds.KILLS or 2):
        folder = lab / f'{name}-pressed{kill}'
        folder.mkdir()
        status, err = press(words, folder, rng.uniform(0, 0.9) * lasts)
        assert status in (0, 130), err
        assert 'Traceback' not in err and not list(folder.rglob('.*.part')), err
        if status == 130:
            stopped += 1
            last = err.splitlines()[-1].rpartition('\r')[2]
            told = 'with --resume' if words[0] == 'train' else 'the same command'
            told = told if words[0] in GOES_ON else 'no result was written'
            assert last.startswith('mcl: interrupted') and told in last, err
        status, err = press(words, folder, None)
        assert status == 0, err
        if name != 'export':  # an archive that holds times
            assert outcome(folder) == expected
    assert stopped or not bounds.KILLS


def test_ctrl_c_in_a_terminal(lab, tmp_path):
    words = [
        sys.executable,
        '-m',
        'mcl',
        'train',
        '--data-dir',
        lab / 'world',
        '--run-dir',
        tmp_path / 'run',
        *SETTINGS,
        '--set',
        'epochs=10000',
    ]
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # a job in the background would not hear it
    command = [str(word) for word in words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heard) as process:
        checkpoint, deadline = Path(tmp_path, 'run', 'checkpoint.pt'), time.monotonic() + 120
        while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=120)[1]
    assert process.returncode == 130 and 'Traceback' not in err, err
    assert err.splitlines()[-1].rpartition('\r')[2].startswith('mcl: interrupted')


EARLY = '''
import sys

class Pressed:
    def find_spec(name, *_):
        if name == 'mcl.commands':
            raise KeyboardInterrupt

sys.meta_path.insert(0, Pressed)
from mcl.__main__ import main
main()
'''


def test_ctrl_c_before_the_command_is_loaded():
    ended = subprocess.run([sys.executable, '-c', EARLY], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, '', 'mcl: interrupted before it began\n')
