"""What leaves a run: curves, features, an exported network, a search."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from mcl import training
from mcl.config import TrainConfig
from mcl.evaluation import search
from mcl.images import ImageStore, normalise
from mcl.models import build_model, export_model, extract_features, save_weights
from mcl.pretrained import from_pretrained
from mcl.training import train

SHORT = dict(epochs=2, steps_per_epoch=4, p=6, n_subsets=2, k1=10, k2=3)


def mcl(*words, cwd=None):
    return subprocess.run(
        [sys.executable, '-m', 'mcl.cli', *map(str, words)], capture_output=True, text=True, cwd=cwd
    )


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    return save_weights(build_model('small'), tmp_path_factory.mktemp('weights') / 'small.safetensors')


def read_curves(folder):
    "Values by curve, as TensorBoard shows them."
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()['scalars']}


def test_curves_of_a_run_that_went_on(tiny, tiny_stores, tmp_path):
    pytest.importorskip('tensorboard')
    config = TrainConfig(**{**SHORT, 'epochs': 3})

    class Stop(Exception):
        pass

    class StopsLate:
        samples, left = tiny_stores.train.samples, 16

        def __len__(self):
            return len(self.samples)

        def batch(self, indices):
            self.left -= 1
            if not self.left:
                raise Stop
            return tiny_stores.train.batch(indices)

    with pytest.raises(Stop):
        train(
            config,
            tiny,
            tmp_path,
            stores=type(tiny_stores)(StopsLate(), None, None),
            progress=False,
            log_to='tensorboard',
        )
    run = train(config, tiny, tmp_path, resume=True, stores=tiny_stores, progress=False, log_to='tensorboard')
    shown = read_curves(tmp_path / 'tensorboard')
    for curve, key in (
        ('losses/loss', 'loss'),
        ('losses/polish_loss', 'polish_loss'),
        ('labels/n_clusters', 'n_clusters'),
        ('labels/pseudo_label_ari', 'pseudo_label_ari'),
        ('training/learning_rate', 'learning_rate'),
    ):
        assert [step for step, _ in shown[curve]] == [0, 1, 2]
        assert np.allclose([value for _, value in shown[curve]], [row[key] for row in run.history])
    assert {f'seconds/{stage}' for stage in ('features', 'clustering', 'annotation', 'train')} <= set(shown)
    assert 'memory_mib/process' in shown and [step for step, _ in shown['labels/label_stability']] == [1, 2]


def test_curves_change_nothing(tiny, tiny_stores, tmp_path):
    pytest.importorskip('tensorboard')
    quiet, watched = (
        train(TrainConfig(**SHORT), tiny, tmp_path / str(log), stores=tiny_stores, progress=False, log_to=log)
        for log in (None, 'tensorboard')
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(quiet.model.state_dict().values(), watched.model.state_dict().values())
    )


def test_a_missing_extra_is_named_before_anything_is_written(tiny, tiny_stores, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'tensorboard', None)
    with pytest.raises(ImportError, match=r"pip install 'mcl-reid\[tensorboard\]'"):
        train(
            TrainConfig(**SHORT),
            tiny,
            tmp_path / 'run',
            stores=tiny_stores,
            progress=False,
            log_to='tensorboard',
        )
    assert not list(tmp_path.iterdir())


def test_features_of_a_folder_and_of_a_data_set(worlds, tiny, weights, tmp_path):
    done = mcl('features', weights, tiny.query[0].path.parent, tmp_path / 'f.npy')
    assert done.returncode == 0, done
    store = ImageStore(tiny.query, progress=False)
    expected = {
        s.path.as_posix(): f
        for s, f in zip(store.samples, extract_features(build_model('small'), store, progress=False).numpy())
    }
    rows, names = np.load(tmp_path / 'f.npy'), (tmp_path / 'f.txt').read_text().splitlines()
    assert rows.dtype == np.float32 and len(rows) == len(names) == len(expected) == len(tiny.query)
    assert all(np.allclose(row, expected[name], atol=1e-5) for row, name in zip(rows, names))
    done = mcl(
        'features', weights, 'pedworld-tiny', 'q.npy', '--split', 'query', '--data-dir', worlds, cwd=tmp_path
    )
    assert len(np.load(tmp_path / 'q.npy')) == len(tiny.query), done


def test_features_are_whole_or_absent(tiny, weights, tmp_path):
    crops = tmp_path / 'crops'
    crops.mkdir()
    (crops / 'a.jpg').write_bytes(tiny.query[0].path.read_bytes())
    (crops / 'b.jpg').write_bytes(b'broken')
    for words, complaint in (
        (('crops', 'f.npy'), 'b.jpg'),
        (('crops', 'f.txt'), '.npy'),
        (('crops', 'none/f.npy'), 'none'),
        (('crops', 'f.npy', '--split', 'query'), 'query'),
        (('nowhere', 'f.npy'), 'nowhere'),
    ):
        done = mcl('features', weights, *words, cwd=tmp_path)
        assert done.returncode == 2 and complaint in done.stderr and 'Traceback' not in done.stderr, done
        assert sorted(p.name for p in tmp_path.iterdir()) == ['crops']
    done = mcl('features', weights, 'crops', 'f.npy', '--on-error', 'skip', cwd=tmp_path)
    assert len(np.load(tmp_path / 'f.npy')) == 1 and (tmp_path / 'f.txt').read_text() == 'crops/a.jpg\n', done


def test_an_exported_network_agrees(weights, tiny_stores, tmp_path):
    done = mcl('export', weights, tmp_path / 'model.pt2')
    assert done.returncode == 0 and [p.name for p in tmp_path.iterdir()] == ['model.pt2'], done
    program, model = torch.export.load(tmp_path / 'model.pt2').module(), build_model('small').eval()
    for n in (1, 3, 40):
        images = normalise(tiny_stores.query.batch(list(range(n))))
        with torch.inference_mode():
            torch.testing.assert_close(program(images), model(images), atol=1e-5, rtol=0)
    for name in ('model.pth', 'none/model.pt2'):
        done = mcl('export', weights, tmp_path / name)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and 'model.p' in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ['model.pt2']


def test_an_onnx_file_agrees_for_any_batch(weights, tiny_stores, tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    done = mcl('export', weights, tmp_path / 'model.onnx')
    assert done.returncode == 0 and [p.name for p in tmp_path.iterdir()] == ['model.onnx'], done
    session = onnxruntime.InferenceSession(tmp_path / 'model.onnx', providers=['CPUExecutionProvider'])
    model = build_model('small').eval()
    for n in (1, 3, 40):
        images = normalise(tiny_stores.query.batch(list(range(n))))
        (features,) = session.run(None, {'images': images.numpy()})
        with torch.inference_mode():
            torch.testing.assert_close(torch.from_numpy(features), model(images), atol=1e-5, rtol=0)


def test_a_missing_onnx_is_named_and_nothing_is_written(weights, tmp_path):
    program = """
import sys
sys.modules['onnxscript'] = None
from mcl.cli import main
main(sys.argv[1:])
"""
    words = [sys.executable, '-c', program, 'export', weights, tmp_path / 'model.onnx']
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].endswith("`pip install 'mcl-reid[onnx]'`")
    assert not list(tmp_path.iterdir())


def test_a_saved_run_is_used_wherever_weights_are(tiny, tiny_stores, tmp_path):
    config = TrainConfig(**{**SHORT, 'epochs': 1})
    run = train(config, tiny, tmp_path / 'run', stores=tiny_stores, progress=False)
    done = mcl('export', 'run', 'net', cwd=tmp_path)
    assert done.returncode == 0, done
    assert {p.name for p in (tmp_path / 'net').iterdir()} == {'README.md', 'config.json', 'model.safetensors'}
    card = (tmp_path / 'net' / 'README.md').read_text()
    assert f'{run.record["mAP"]:.2f}' in card and str(run.record['images_seen']) in card
    network = from_pretrained(tmp_path / 'net')
    assert network.size == (64, 32) and not network.training
    pairs = zip(network.state_dict().values(), run.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    crops = tiny.query[0].path.parent
    for place in ('run', 'net', 'net/model.safetensors', 'source'):
        done = mcl('features', place, crops, f'{place[:3]}{len(place)}.npy', cwd=tmp_path)
        assert done.returncode == 0, done
    rows = [np.load(tmp_path / name) for name in ('run3.npy', 'net3.npy', 'net21.npy', 'sou6.npy')]
    assert np.array_equal(rows[0], rows[1]) and np.array_equal(rows[0], rows[2])
    assert not np.array_equal(rows[0], rows[3])
    done = mcl('features', 'nett', crops, 'f.npy', cwd=tmp_path)
    assert done.returncode == 2 and 'nett' in done.stderr and 'Traceback' not in done.stderr
    done = mcl('export', 'run', 'run', cwd=tmp_path)
    assert done.returncode == 2 and 'run holds other files' in done.stderr


@pytest.mark.parametrize('name', ['csv', 'wandb', 'mlflow'])
def test_other_trackers_see_the_curves(tiny, tiny_stores, tmp_path, monkeypatch, name):
    if name != 'csv':
        pytest.importorskip(name)
    monkeypatch.setenv('WANDB_MODE', 'offline')
    monkeypatch.setenv('WANDB_SILENT', 'true')
    monkeypatch.setenv('MLFLOW_TRACKING_URI', f'sqlite:///{tmp_path}/mlflow.db')
    folder = tmp_path / 'mine'
    run = train(TrainConfig(**SHORT), tiny, folder, stores=tiny_stores, progress=False, log_to=name)
    losses = [row['loss'] for row in run.history]
    if name == 'csv':
        rows = list(csv.DictReader((folder / 'curves.csv').read_text().splitlines()))
        assert [int(row['epoch']) for row in rows] == [0, 1]
        assert np.allclose([float(row['losses/loss']) for row in rows], losses)
    elif name == 'wandb':
        assert list((folder / 'wandb').glob('offline-run-*/*.wandb'))
    else:
        import mlflow

        (found,) = mlflow.search_runs(experiment_names=['mcl'], output_format='list')
        values = mlflow.MlflowClient().get_metric_history(found.info.run_id, 'losses/loss')
        assert [(v.step, v.value) for v in values] == [*enumerate(losses)]
        assert found.info.run_name == 'mine' and found.data.params['n_subsets'] == '2'


@pytest.mark.parametrize('name', ['wandb', 'mlflow'])
def test_a_resumed_run_goes_on_in_the_run_of_its_tracker(tiny, tiny_stores, tmp_path, monkeypatch, name):
    service = pytest.importorskip(name)
    monkeypatch.setenv('WANDB_MODE', 'offline')
    monkeypatch.setenv('WANDB_SILENT', 'true')
    monkeypatch.setenv('MLFLOW_TRACKING_URI', f'sqlite:///{tmp_path}/mlflow.db')
    folder, config = tmp_path / 'mine', TrainConfig(**SHORT)
    todo = dict(stores=tiny_stores, progress=False, log_to=name)
    save = training.save_checkpoint

    def stop_after_one(state, *rest):
        save(state, *rest)
        if len(state.history) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, 'save_checkpoint', stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        train(config, tiny, folder, **todo)
    (before,) = json.loads((folder / 'tracker_runs.json').read_text()).values()
    history = train(config, tiny, folder, resume=True, **todo).history
    (after,) = json.loads((folder / 'tracker_runs.json').read_text()).values()
    assert before == after
    if name == 'wandb':
        kept = [path.parent.name for path in (folder / 'wandb').glob('offline-run-*/*.wandb')]
        assert kept and all(name.endswith(f'-{before}') for name in kept)
    else:
        (found,) = service.search_runs(experiment_names=['mcl'], output_format='list')
        values = service.MlflowClient().get_metric_history(found.info.run_id, 'losses/loss')
        assert [(v.step, v.value) for v in values] == [(row['epoch'], row['loss']) for row in history]


def test_resnet50_is_exported_too(tmp_path):
    model = build_model('resnet50', None).eval()
    program = torch.export.load(export_model(model, tmp_path / 'model.pt2', (64, 32))).module()
    images = torch.randn(3, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(program(images), model(images), atol=1e-5, rtol=0)


def test_search_ranks_as_evaluation_does(tiny, tiny_stores):
    model = build_model('small')
    known = extract_features(model, tiny_stores.query, progress=False)
    for i in (0, 7):
        found = search(model, tiny.query[i].path, tiny.query[0].path.parent, top=5)
        assert [path for path, _ in found] == [
            tiny.query[j].path for j in (known @ known[i]).topk(5).indices.tolist()
        ]
        assert found[0][0] == tiny.query[i].path and found[0][1] > 0.9999
