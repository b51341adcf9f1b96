"""Faults found by hunting for them, in runs, in saved networks and at the command line; each mended."""

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mcl.extraction as extraction
from mcl.cli import main
from mcl.core import check_output, draft_of, write_text
from mcl.data import load_dataset
from mcl.inference import fast_network
from mcl.loading import DiskStore, cached_stores
from mcl.models import build_model, load_weights, save_weights
from mcl.pretrained import from_pretrained, save_pretrained
from mcl.prototypes import MetaPrototypes
from mcl.sources import save_prototypes

QUICK = [word for name in ('epochs=1', 'p=2', 'k=2', 'k1=4', 'k2=2', 'min_samples=1', 'eps=0.9')
         for word in ('--set', name)]


def run(*words):
    "Exit status of a command in this process."
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return stop.value.code


def refused(capsys, *words):
    "The one line in which a command refuses."
    capsys.readouterr()
    assert run(*words) == 2
    said = capsys.readouterr().err.strip().rpartition('\r')[2]    # behind progress bars
    assert said.startswith('mcl: ') and len(said.splitlines()) == 1, said
    assert 'may be a fault of mcl' not in said
    return said


def noise(path, seed):
    "A crop of random colours."
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (64, 32, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def crops(tmp_path, monkeypatch):
    "Ten crops; the folder above is where we are, and the folder is named as seen from there."
    (tmp_path / 'crops').mkdir()
    for number in range(10):
        noise(tmp_path / 'crops' / f'{number}.png', number)
    monkeypatch.chdir(tmp_path)
    return Path('crops')


# --- saved networks


def test_a_folded_network_is_refused_when_it_is_saved_not_when_it_is_loaded(tmp_path):
    network = build_model('small', None).eval()
    with pytest.raises(ValueError, match='save the plain network'):
        save_pretrained(fast_network(network, 'fused'), tmp_path / 'fast')
    assert not any(tmp_path.iterdir())
    assert from_pretrained(save_pretrained(network, tmp_path / 'plain')).arch == 'small'


def test_weights_are_saved_under_a_name_by_which_they_can_be_loaded(tmp_path):
    network = build_model('small', None)
    with pytest.raises(ValueError, match='name of a .safetensors file'):
        save_weights(network, tmp_path / 'w.pth')
    assert not any(tmp_path.iterdir())
    load_weights(network, save_weights(network, tmp_path / 'w.safetensors'))


def test_a_record_with_numbers_of_numpy_is_saved(tmp_path):
    record = dict(method='mcl', mAP=np.float32(3), epochs=np.int64(2), config=dict(k1=np.int32(7)))
    folder = save_pretrained(build_model('small', None), tmp_path / 'n', record=record)
    saved = json.loads((folder / 'config.json').read_text())['record']
    assert saved == dict(method='mcl', mAP=3.0, epochs=2, config=dict(k1=7))
    assert '| 3.00 |' in (folder / 'README.md').read_text()


def test_a_record_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    with pytest.raises(TypeError, match='no place in JSON'):
        save_pretrained(build_model('small', None), tmp_path / 'n', record=dict(where=tmp_path))
    assert not any(tmp_path.iterdir())


def test_a_save_that_was_interrupted_is_repeated(tmp_path, monkeypatch):
    first, second = (build_model('small', None, seed=seed) for seed in (1, 2))
    folder = save_pretrained(first, tmp_path / 'n', (96, 48))

    def stopped(*_):
        raise KeyboardInterrupt

    for step in ('save_weights', 'write_text'):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(f'mcl.pretrained.{step}', stopped)
            save_pretrained(second, folder)
        assert not (folder / 'config.json').exists(), 'an old description beside new weights'
        assert from_pretrained(save_pretrained(second, folder)).size == (64, 32)
    (folder / 'config.json').unlink()
    (folder / 'README.md').write_text('# My thesis')
    with pytest.raises(ValueError, match='other files'):
        save_pretrained(second, folder)
    assert (folder / 'README.md').read_text() == '# My thesis'


def test_an_empty_folder_takes_a_network(tmp_path):
    (tmp_path / 'enet').mkdir()
    assert run('export', 'source', tmp_path / 'enet') == 0
    assert from_pretrained(tmp_path / 'enet').size == (64, 32)


@pytest.mark.parametrize('name', ['net', 'net.pt2'])
@pytest.mark.parametrize('option', [('--height', 0), ('--height', -5), ('--width', 0), ('--width', 5000)])
def test_a_size_without_images_is_not_exported(name, option, tmp_path, capsys):
    assert 'each 1 to 4096 pixels' in refused(capsys, 'export', 'source', tmp_path / name, *option)
    assert not any(tmp_path.iterdir())


# --- features and their names, decoded images


def test_names_in_a_list_lead_to_the_images_from_everywhere(crops, monkeypatch):
    Path('out').mkdir()
    assert run('features', 'source', crops, 'out/f.npy') == 0
    listed = Path('out/f.txt').read_text().splitlines()
    assert listed[0] == '../crops/0.png' and all(Path('out', name).is_file() for name in listed)
    assert run('features', 'source', crops, 'f.npy') == 0
    assert Path('f.txt').read_text().splitlines()[0] == 'crops/0.png'
    assert run('features', 'source', crops.resolve(), 'out/g.npy') == 0
    assert Path('out/g.txt').read_text().splitlines()[0] == f'{crops.resolve()}/0.png'
    monkeypatch.chdir('out')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert run('search', 'source', '../crops/3.png', 'f.npy', '--output', 'found', '--top', 2) == 0
    assert '3.png' not in Path('found/matches.csv').read_text().splitlines()[1].split(',', 1)[1]


def test_a_list_with_names_as_they_once_were_is_replaced(crops):
    Path('out').mkdir()
    for names in (list(crops.iterdir()), ['crops/0.png']):    # of features that are there, or gone
        Path('out/f.txt').write_text(''.join(f'{name}\n' for name in names))
        assert run('features', 'source', crops, 'out/f.npy') == 0
        assert Path('out/f.txt').read_text().startswith('../crops/0.png\n')
        Path('out/f.npy').unlink()


def test_features_and_training_share_decoded_images_of_more_than_one_block(crops, monkeypatch):
    monkeypatch.setattr(extraction, 'BLOCK', 4)
    noise(crops / '5.png', 0)
    (crops / '6.png').write_bytes(b'broken')
    samples = load_dataset(crops).train
    plain, skip = ('features', 'source', crops), ('--on-error', 'skip')
    assert run(*plain, 'f.npy', *skip, '--cache', 'cache') == 0
    files = sorted(Path('cache').iterdir())
    assert [file.suffix for file in files] == ['.images', '.json']
    with monkeypatch.context() as patch:
        patch.setattr('mcl.images.decode', lambda *_: pytest.fail('decoded again'))
        store = cached_stores(load_dataset(crops), folder='cache', on_error='skip', progress=False).train
        assert run(*plain, 'g.npy', *skip, '--cache', 'cache') == 0
    assert len(store) == 9 and store.skipped == [samples[6].path]
    assert sorted(Path('cache').iterdir()) == files
    assert np.array_equal(np.load('f.npy'), np.load('g.npy'))
    assert run(*plain, 'h.npy', *skip) == 0
    np.testing.assert_allclose(np.load('f.npy'), np.load('h.npy'), atol=1e-5)
    assert Path('f.txt').read_text() == Path('h.txt').read_text()


@pytest.mark.parametrize('note', ['', '{', '[]', '{"images": 10}', '{"images": "10", "skipped": []}'])
def test_a_damaged_note_counts_as_none(note, crops):
    samples = load_dataset(crops).train
    store = DiskStore(samples, folder='cache', progress=False)
    store.file.with_suffix('.json').write_text(note)
    again = DiskStore(samples, folder='cache', progress=False)
    assert torch.equal(store.batch(range(10)), again.batch(range(10)))
    assert json.loads(again.file.with_suffix('.json').read_text())['images'] == 10


# --- annotation


def soft_labels(folder):
    "Names of the files of an annotation, with the time of their last change."
    return {path.name: path.stat().st_mtime_ns for path in Path(folder).iterdir() if path.name[0] != '.'}


@pytest.fixture
def annotate(crops):
    "The words of a command that annotates the crops, three in a shard."
    dim = build_model('small').dim
    centroids = torch.randn(4, dim, generator=torch.Generator().manual_seed(0))
    save_prototypes(MetaPrototypes(centroids), 'q.safetensors')
    return ['annotate', crops, 'q.safetensors', 'soft', '--weights', 'source', '--shard-rows', 3]


def test_a_replaced_image_costs_its_shard_alone(annotate, crops):
    assert run(*annotate) == 0
    before = soft_labels('soft')
    noise(crops / '4.png', 77)    # in the second shard
    assert run(*annotate) == 0
    after = soft_labels('soft')
    redone = {name for name in after if after[name] != before[name]}
    assert {name.split('.')[0] for name in redone} == {'part-00001', 'manifest'}
    assert run(*annotate[:3], 'fresh', *annotate[4:]) == 0
    for name in after:
        if name != 'manifest.json':
            assert Path('soft', name).read_bytes() == Path('fresh', name).read_bytes(), name
    whole, fresh = (json.loads(Path(folder, 'manifest.json').read_text()) for folder in ('soft', 'fresh'))
    assert whole == fresh


def test_annotation_goes_on_after_a_broken_image_was_replaced(annotate, crops, capsys):
    (crops / '7.png').write_bytes(b'broken')
    assert '7.png' in refused(capsys, *annotate)
    before = soft_labels('soft')
    noise(crops / '7.png', 7)
    assert run(*annotate) == 0
    after = soft_labels('soft')
    kept = {name for name in before if name.startswith('part') and before[name] == after[name]}
    assert {name.split('.')[0] for name in kept} == {'part-00000', 'part-00001'}


def test_a_shard_that_no_manifest_lists_is_not_taken_for_one_of_changed_images(annotate, crops):
    assert run(*annotate) == 0
    manifest = Path('soft/manifest.json')
    listed = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(listed | dict(shards=listed['shards'][:1], finished=False)))
    stale = Path('soft/part-00001.probabilities.npy').read_bytes()
    noise(crops / '4.png', 77)
    assert run(*annotate) == 0
    assert Path('soft/part-00001.probabilities.npy').read_bytes() != stale


def test_other_images_are_still_refused(annotate, crops, capsys):
    assert run(*annotate) == 0
    (crops / '4.png').rename(crops / '44.png')
    assert 'source names was' in refused(capsys, *annotate)
    noise(crops / '4.png', 4)
    assert 'source rows was 10, is 11' in refused(capsys, *annotate)


def test_a_manifest_of_before_goes_on(annotate, crops):
    assert run(*annotate) == 0
    manifest = Path('soft/manifest.json')
    older = json.loads(manifest.read_text())
    older['source'].pop('names')
    older['shards'] = [{k: v for k, v in entry.items() if k != 'images'} for entry in older['shards'][:2]]
    manifest.write_text(json.dumps(older | dict(finished=False)))
    before = soft_labels('soft')
    assert run(*annotate) == 0
    after = soft_labels('soft')
    assert all(before[name] == after[name] for name in before if name.startswith('part'))
    assert all('images' in entry for entry in json.loads(manifest.read_text())['shards'])


# --- the command line


def test_a_report_that_cannot_be_written_is_refused_before_the_work(tmp_path, capsys, monkeypatch):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'record.json').write_text('{}')
    monkeypatch.setattr('mcl.data.load_dataset', lambda *_, **__: pytest.fail('work began'))
    said = refused(capsys, 'report', tmp_path / 'run', '--data-dir', tmp_path,
                   '--output', tmp_path / 'nowhere' / 'p.html')
    assert 'nowhere' in said and 'make it first' in said and '.part' not in said


@pytest.mark.parametrize(
    'words, advice',
    [
        (['evaluate', 'source', '--data-dir', 'crops'], 'no result was written'),
        (['features', 'source', 'crops', 'f.npy'], 'the same command goes on'),
        (['train', '--data-dir', 'crops'], '--resume'),
    ],
)
def test_ctrl_c_promises_what_is_there(words, advice, crops, capsys, monkeypatch):
    def pressed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr('mcl.data.load_dataset', pressed)
    assert run(*words) == 130
    said = capsys.readouterr().err
    assert advice in said and ('--resume' in said) == (words[0] == 'train')


def test_one_step_is_enough_for_full(crops, capsys):
    assert run('train', '--data-dir', crops, '--run-dir', 'run', *QUICK, '--steps-per-epoch', 1) == 0
    assert json.loads(Path('run/record.json').read_text())['method'] == 'full'
    mcl = ['--method', 'mcl', '--split-by', 'random', '--run-dir', 'other']
    said = refused(capsys, 'train', '--data-dir', crops, *mcl, '--steps-per-epoch', 1)
    assert 'each phase needs at least one step' in said and not Path('other').exists()


def test_a_long_name_is_written_and_one_too_long_is_refused_first(tmp_path):
    path = tmp_path / f'{"l" * 251}.npy'
    check_output(path, '.npy')
    write_text(path, 'one')
    dead = tmp_path / draft_of(path).name.replace(f'.{os.getpid()}.', '.999999999.')
    dead.write_text('of a process that died')
    write_text(path, 'two')
    assert path.read_text() == 'two' and list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match='1 bytes too long'):
        check_output(tmp_path / f'{"l" * 252}.npy', '.npy')
