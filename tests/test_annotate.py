"""Annotation of files larger than memory: killed at random moments, shared by processes, watched for memory,
given wrong files.
"""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from ports import free_port

from mcl.cli import main
from mcl.models import build_model, save_weights
from mcl.prototypes import MetaPrototypes
from mcl.shards import annotate_shards, read_shards
from mcl.sources import FeatureFiles, save_prototypes

ROWS, DIMENSIONS, PEOPLE = 6000, 16, 20


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def here(tmp_path, monkeypatch):
    "A folder to work in, with features, labels of the first 200 rows, and prototypes."
    rng = np.random.default_rng(0)
    people = rng.normal(size=(PEOPLE, DIMENSIONS))
    np.save(
        tmp_path / 'f.npy', unit(people[np.arange(ROWS) % PEOPLE] + 0.5 * rng.normal(size=(ROWS, DIMENSIONS)))
    )
    np.save(tmp_path / 'l.npy', np.where(np.arange(200) % 7, np.arange(200) % PEOPLE, -1))
    save_prototypes(MetaPrototypes(torch.from_numpy(people)), tmp_path / 'p.safetensors')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mcl(capsys, *words):
    "What a command prints, in this process: nothing to import again."
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert stop.value.code == 0, capsys.readouterr().err
    return capsys.readouterr().out


def refused(capsys, *words):
    "The one line a failed command prints."
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert stop.value.code == 2
    return ' '.join(capsys.readouterr().err.split())


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != '.lock'}


def stamps(folder):
    "When each finished shard was written, and as which file; its prototypes come last."
    shards = [p.name.split('.')[0] for p in folder.glob('part-*.prototypes.npy')]
    return {
        p.name: (p.stat().st_mtime_ns, p.stat().st_ino)
        for shard in shards
        for p in (folder / f'{shard}.probabilities.npy', folder / f'{shard}.prototypes.npy')
    }


def annotate_in_child(source, folder):
    prototypes = MetaPrototypes(torch.eye(DIMENSIONS))
    torch.set_num_threads(1)
    annotate_shards(prototypes, source, folder, top_k=3, shard_rows=70, block=32, progress=False)


@pytest.fixture(scope='module')
def context():
    "Starts processes in which everything is imported already."
    found = multiprocessing.get_context('forkserver')
    found.set_forkserver_preload(['mcl.cli', 'pytest'])
    return found


def test_killed_at_random_moments_nothing_is_lost_or_done_twice(here, context):
    folder, rng, kills, done = here / 'killed', random.Random(0), 0, {}
    for _ in range(200):
        child = context.Process(target=annotate_in_child, args=(here / 'f.npy', folder))
        child.start()
        enough, deadline = len(done) + 2 * rng.randrange(16), time.monotonic() + 60
        while child.is_alive() and time.monotonic() < deadline and len(stamps(folder)) < enough:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.02)
        killed = child.is_alive()
        child.kill()
        child.join()
        if not killed:
            assert child.exitcode == 0
            break
        kills, before, done = kills + 1, done, stamps(folder)
        assert before.items() <= done.items(), 'a finished shard was written again'
        for name in done:
            np.load(folder / name)
    assert kills >= 5
    annotate_in_child(here / 'f.npy', here / 'one-go')
    assert contents(folder) == contents(here / 'one-go')
    assert [start for start, *_ in read_shards(folder)] == list(range(0, ROWS, 70)) and sum(
        len(p) for _, p, _ in read_shards(folder)
    ) == ROWS


def command_in_child(rank, size, port, words):
    "The command as one of `size` processes that a launcher started."
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(size),
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    with open(f'said-{rank}', 'w') as sys.stdout, open(f'complained-{rank}', 'w') as sys.stderr:
        main(words)


def launch(context, size, *words):
    port = free_port()
    children = [
        context.Process(target=command_in_child, args=(rank, size, port, ['annotate', *map(str, words)]))
        for rank in range(size)
    ]
    for child in children:
        child.start()
    return children


def exit_codes(children):
    "Wait as a launcher does: when one process fails, the others are ended."
    deadline = time.monotonic() + 60
    while (
        any(child.exitcode is None for child in children)
        and not any(child.exitcode for child in children)
        and time.monotonic() < deadline
    ):
        time.sleep(0.01)
    for child in children:
        child.kill() if any(child.exitcode for child in children) or time.monotonic() > deadline else None
        child.join()
    return [child.exitcode for child in children]


TASK = ('f.npy', 'l.npy', 'soft', '--shard-rows', 70, '--top-k', 3)


def test_processes_share_the_shards_and_the_files_are_those_of_one(here, context):
    assert exit_codes(launch(context, 1, *TASK)) == [0]
    alone = contents(here / 'soft')
    for size in (2, 3):
        os.rename(here / 'soft', here / f'of-{size - 1}')
        assert exit_codes(launch(context, size, *TASK)) == [0] * size
        assert contents(here / 'soft') == alone
        assert [
            (here / f'said-{rank}').read_text().count(f'wrote soft: {ROWS} soft labels over {PEOPLE}')
            for rank in range(size)
        ] == [1] + [0] * (size - 1)


def test_killed_together_and_resumed_by_others_nothing_is_lost_or_done_twice(here, context):
    rng, kills, done = random.Random(0), 0, {}
    for size in (2, 3, 1, 2):
        children, victim = launch(context, size, *TASK), rng.randrange(size)
        enough, deadline = len(done) + 20, time.monotonic() + 60
        while (
            all(child.is_alive() for child in children)
            and time.monotonic() < deadline
            and len(stamps(here / 'soft')) < enough
        ):
            time.sleep(0.002)
        children[victim].kill()
        time.sleep(rng.random() * 0.02)
        for child in children:
            child.kill(), child.join()
        before, done, kills = done, stamps(here / 'soft'), kills + any(child.exitcode for child in children)
        assert before.items() <= done.items(), 'a finished shard was written again'
    assert kills >= 2 and len(done) > 20
    assert exit_codes(launch(context, 2, *TASK)) == [0, 0]
    assert done.items() <= stamps(here / 'soft').items()
    assert exit_codes(launch(context, 1, *TASK[:2], 'one-go', *TASK[3:])) == [0]
    assert contents(here / 'soft') == contents(here / 'one-go')


def test_what_one_process_cannot_read_ends_all_with_one_line(here, context):
    broken = np.load('f.npy')
    broken[2050, 3] = np.nan
    np.save('broken.npy', broken)
    codes = exit_codes(launch(context, 2, 'broken.npy', *TASK[1:]))
    assert codes[1] == 2 and 'row 2050' in (here / 'complained-1').read_text()
    assert (
        not list((here / 'soft').glob('part-00029*'))
        and not json.loads((here / 'soft' / 'manifest.json').read_text())['finished']
    )
    assert 2 in exit_codes(launch(context, 2, 'nowhere.npy', *TASK[1:]))


def test_the_command_goes_on_after_a_kill(here, capsys):
    words = ['annotate', 'f.npy', 'l.npy', 'soft', '--shard-rows', '30', '--top-k', '2']
    process = subprocess.Popen(
        [sys.executable, '-c', 'from mcl.cli import main; main()', *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while len(stamps(here / 'soft')) < 20 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = stamps(here / 'soft')
    assert 20 <= len(done) < 2 * ROWS // 30
    assert f'{ROWS} soft labels over {PEOPLE}' in mcl(capsys, *words)
    assert done.items() <= stamps(here / 'soft').items()
    mcl(capsys, *words[:3], 'one-go', *words[4:])
    assert contents(here / 'soft') == contents(here / 'one-go')


def test_memory_is_flat(here):
    class Watched(FeatureFiles):
        largest = peak = 0

        def read(self, start, stop):
            rows, names = super().read(start, stop)
            self.largest, self.peak = (
                max(self.largest, stop - start),
                max(self.peak, psutil.Process().memory_info().rss),
            )
            return rows, names

    n, d = 1_000_000, 64
    large = np.lib.format.open_memmap(here / 'large.npy', 'w+', np.float32, (n, d))
    large[:, 0] = 1
    del large
    source, prototypes = Watched(here / 'large.npy'), MetaPrototypes(torch.eye(d)[:8])
    source.read(0, 4096)
    before = psutil.Process().memory_info().rss
    manifest = annotate_shards(prototypes, source, here / 'soft', top_k=2, progress=False)
    assert manifest['finished'] and manifest['shards'][-1]['stop'] == n
    assert source.largest == 4096
    assert source.peak - before < n * d * 4 / 4, 'less than a quarter of the file'


def test_one_file_many_files_and_one_archive_agree(here, capsys):
    (here / 'many').mkdir()
    for i, part in enumerate(np.split(np.load('f.npy'), [1, 700, 701, 4000])):
        np.save(here / 'many' / f'{i}.npy', part)
    (here / 'many' / 'read me.txt').write_text('not a shard')
    for source, output in (('f.npy', 'a'), ('many', 'b'), ('f.npy', 'c.npz')):
        mcl(capsys, 'annotate', source, 'l.npy', output, '--shard-rows', 999, '--top-k', 4)
    a, b = ([np.concatenate(column) for column in list(zip(*read_shards(here / name)))[1:]] for name in 'ab')
    with np.load('c.npz') as file:
        c = dict(file)
    for probabilities, prototypes in (b, (c['probabilities'], c['prototypes'])):
        assert np.array_equal(a[1], prototypes)
        np.testing.assert_allclose(a[0], probabilities, rtol=1e-4)
    manifest = json.loads((here / 'b' / 'manifest.json').read_text())
    assert (
        manifest['source']['rows'] == ROWS
        and manifest['prototypes'] == PEOPLE
        and manifest['top_k'] == 4
        and manifest['temperature'] == 0.05
    )
    assert [(s['start'], s['stop']) for s in manifest['shards']][-1] == (5994, 6000)


def test_prototypes_of_one_annotation_serve_the_next(here, capsys):
    mcl(capsys, 'annotate', 'f.npy', 'l.npy', 'first')
    mcl(capsys, 'annotate', 'f.npy', 'first/prototypes.safetensors', 'second')
    mcl(capsys, 'annotate', 'f.npy', 'l.npy', 'third', '--features', 'f.npy')
    for other in ('second', 'third'):
        for (_, p, k), (_, q, l) in zip(read_shards(here / 'first'), read_shards(here / other), strict=True):
            np.testing.assert_allclose(p, q, rtol=1e-4)
            assert np.array_equal(k, l)


def test_a_folder_of_images(here, capsys):
    rng = np.random.default_rng(0)
    for i in range(30):
        path = here / 'crops' / f'camera {i % 3}' / f'{i:02d}.{"jpg" if i % 2 else "png"}'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (64, 32, 3), dtype=np.uint8)).save(path)
    model = build_model('small')
    save_weights(model, here / 'w.safetensors')
    save_prototypes(
        MetaPrototypes(torch.randn(9, model.dim, generator=torch.Generator().manual_seed(0))),
        here / 'q.safetensors',
    )
    command = ['annotate', 'crops', 'q.safetensors', 'soft', '--weights', 'w.safetensors', '--shard-rows', 8]
    assert '30 soft labels over 9' in mcl(capsys, *command)
    listed = [
        line
        for i in range(4)
        for line in (here / 'soft' / f'part-{i:05d}.paths.txt').read_text().splitlines()
    ]
    assert listed == sorted(p.relative_to(here / 'crops').as_posix() for p in (here / 'crops').glob('*/*'))
    before = contents(here / 'soft')
    mcl(capsys, *command)
    assert contents(here / 'soft') == before
    (here / 'crops' / 'camera 0' / '00.png').write_bytes(b'broken')
    assert '00.png' in refused(capsys, *command[:3], 'other', *command[4:])
    assert '29 soft labels over 9 meta-prototypes, 1 images could not' in mcl(
        capsys, *command[:3], 'fewer', *command[4:], '--on-error', 'skip'
    )
    assert sum(len(p) for _, p, _ in read_shards(here / 'fewer')) == 29
    (here / 'crops' / 'new.jpg').write_bytes((here / 'crops' / 'camera 1' / '01.jpg').read_bytes())
    assert 'source rows was 30, is 31' in refused(capsys, *command)
    save_weights(build_model('small', None), here / 'w.safetensors')
    assert 'source weights was' in refused(capsys, *command)
    assert '--weights' in refused(capsys, 'annotate', 'crops', 'q.safetensors', 'new')


def test_another_task_in_the_same_folder_is_refused(here, capsys):
    command = ['annotate', 'f.npy', 'l.npy', 'soft']
    mcl(capsys, *command)
    before = contents(here / 'soft')
    assert 'soft was begun with other settings: temperature was 0.05, is 0.1' in refused(
        capsys, *command, '--temperature', 0.1
    )
    assert 'shard_rows was 65536, is 100; top_k was 5, is 3' in refused(
        capsys, *command, '--top-k', 3, '--shard-rows', 100
    )
    assert 'other prototypes' in refused(capsys, 'annotate', 'f.npy', 'p.safetensors', 'soft')
    np.save('g.npy', np.load('f.npy')[:-1])
    assert f'source rows was {ROWS}, is {ROWS - 1}' in refused(capsys, 'annotate', 'g.npy', 'l.npy', 'soft')
    np.save('g.npy', np.load('f.npy')[::-1])
    assert 'source content was' in refused(capsys, 'annotate', 'g.npy', 'soft/prototypes.safetensors', 'soft')
    assert contents(here / 'soft') == before
    os.rename('f.npy', 'moved.npy')
    mcl(capsys, 'annotate', 'moved.npy', 'l.npy', 'soft')
    (here / 'thesis').mkdir()
    (here / 'thesis' / 'chapter.txt').write_text('years of work')
    assert 'thesis holds other files' in refused(capsys, 'annotate', 'moved.npy', 'l.npy', 'thesis')
    assert 'l.npy is a file' in refused(capsys, 'annotate', 'moved.npy', 'l.npy', 'l.npy')


def test_each_bad_input_has_its_message_and_writes_nothing(here, capsys):
    (here / 'many').mkdir()
    np.save('many/a.npy', np.zeros((5, DIMENSIONS), np.float32))
    np.save('many/b.npy', np.zeros((5, 3), np.float32))
    (here / 'empty').mkdir()
    np.save('narrow.npy', np.ones((300, 3), np.float32))
    np.save('numbers.npy', np.ones((300, 3), int))
    np.save('none.npy', np.ones((0, 3), np.float32))
    np.save('objects.npy', np.array([{}, 'code'], dtype=object), allow_pickle=True)
    np.save('long.npy', np.zeros(ROWS + 1, int))
    np.save('outliers.npy', np.full(9, -1))
    np.save('gap.npy', np.array([0, 2]))
    np.save('halves.npy', np.array([0.5, 1.5]))
    (here / 'text.safetensors').write_text('not tensors')
    (here / 'cut.npy').write_bytes((here / 'f.npy').read_bytes()[:5000])
    files = sorted(os.listdir())
    wrong = [
        ('nowhere.npy', 'l.npy', 'nowhere.npy'),
        ('empty', 'l.npy', 'empty holds no .npy'),
        ('many', 'l.npy', 'b.npy has 3'),
        ('cut.npy', 'l.npy', 'cut.npy cannot be read'),
        ('numbers.npy', 'l.npy', 'int64 of shape (300, 3)'),
        ('none.npy', 'l.npy', 'no rows'),
        ('objects.npy', 'l.npy', 'objects.npy cannot be read'),
        ('f.npy', 'nowhere.npy', 'nowhere.npy'),
        ('f.npy', 'long.npy', f'{ROWS + 1} labels for {ROWS} rows'),
        ('f.npy', 'outliers.npy', 'outliers.npy: All images are outliers'),
        ('f.npy', 'gap.npy', 'No image has label 1'),
        ('f.npy', 'halves.npy', 'float64'),
        ('f.npy', 'objects.npy', 'objects.npy'),
        ('f.npy', 'text.safetensors', 'text.safetensors cannot be read'),
        ('f.npy', 'nowhere.safetensors', 'nowhere.safetensors'),
        ('narrow.npy', 'p.safetensors', '3 numbers in a row, the prototypes 16'),
    ]
    for source, prototypes, words in wrong:
        assert words in refused(capsys, 'annotate', source, prototypes, 'soft'), (source, prototypes)
    assert 'top_k is 0' in refused(capsys, 'annotate', 'f.npy', 'l.npy', 'soft', '--top-k', 0)
    assert 'shard_rows is 0' in refused(capsys, 'annotate', 'f.npy', 'l.npy', 'soft', '--shard-rows', 0)
    assert sorted(os.listdir()) == files


def test_a_feature_that_is_no_number_is_named_and_its_shard_not_written(here, capsys):
    broken = np.load('f.npy')
    broken[4321, 3] = np.nan
    np.save('broken.npy', broken)
    assert 'row 4321' in refused(capsys, 'annotate', 'broken.npy', 'l.npy', 'soft', '--shard-rows', 1000)
    assert len(stamps(here / 'soft')) == 2 * 4 and not list((here / 'soft').glob('part-00004*'))
