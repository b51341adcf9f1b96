"""The fast ways from the command line: features by a folded network, and decoded images kept on disk."""
import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mcl.cli import app
from mcl.models import shipped_weights

WEIGHTS = str(shipped_weights())


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    from mcl.data import load_dataset
    root = tmp_path_factory.mktemp('world')
    load_dataset('pedworld-tiny', root=root, progress=False)
    return root


def mcl(*words):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


def test_fast_features_point_the_same_way(world, tmp_path):
    for name, fast in (('plain.npy', []), ('fast.npy', ['--fast'])):
        mcl('features', WEIGHTS, 'pedworld-tiny', tmp_path / name, '--data-dir', world, *fast)
    plain, fast = (np.load(tmp_path / name) for name in ('plain.npy', 'fast.npy'))
    assert fast.dtype == np.float32 and not np.array_equal(plain, fast)
    assert (plain * fast).sum(1).min() > 0.99 and np.abs(np.linalg.norm(fast, axis=1) - 1).max() < 1e-5


def test_fast_evaluation_ranks_as_well(world):
    words = 'evaluate', WEIGHTS, '--dataset', 'pedworld-tiny', '--data-dir', world
    said = [mcl(*words, *fast) for fast in ([], ['--fast'])]
    plain, fast = (float(line.split('mAP ')[1].split()[0]) for line in said)
    assert abs(plain - fast) < 1


def test_fast_annotation_is_marked_in_the_manifest(world, tmp_path):
    from mcl.core import save_array
    mcl('features', WEIGHTS, 'pedworld-tiny', tmp_path / 'f.npy', '--data-dir', world)
    save_array(tmp_path / 'l.npy', np.arange(len(np.load(tmp_path / 'f.npy'))) % 9)
    crops = next(path for path in world.rglob('bounding_box_test'))
    for name, fast in (('plain', []), ('fast', ['--fast'])):
        mcl('annotate', crops, tmp_path / 'l.npy', tmp_path / name, '--weights', WEIGHTS,
            '--features', tmp_path / 'f.npy', *fast)
    weights = [json.loads((tmp_path / name / 'manifest.json').read_text())['source']['weights']
               for name in ('plain', 'fast')]
    assert weights[0] != weights[1], 'shards of one folder come from one network'


def test_a_run_from_cached_images_equals_a_run_from_memory(world, tmp_path):
    quick = ['train', '--data-dir', world, '--dataset', 'pedworld-tiny', '--set', 'epochs=1',
             '--set', 'steps_per_epoch=2']
    mcl(*quick, '--run-dir', tmp_path / 'a')
    for name in 'bc':
        mcl(*quick, '--run-dir', tmp_path / name, '--cache', tmp_path / 'cache')
    files = list((tmp_path / 'cache').glob('*.images'))
    assert len(files) == 3
    histories = [json.loads((tmp_path / name / 'history.json').read_text()) for name in 'abc']
    losses = [history[0]['loss'] for history in histories]
    assert losses[0] == losses[1] == losses[2]


def short_run(world, folder, **settings):
    "A run of one epoch on the tiny world."
    from mcl.config import MCL, TINY
    from mcl.data import load_dataset
    from mcl.training import train

    config = replace(MCL, **{**TINY, 'epochs': 1, 'steps_per_epoch': 2}, **settings)
    return train(config, load_dataset('pedworld-tiny', root=world), folder, progress=False)


@pytest.mark.skipif(find_spec('openvino') is None, reason='needs the extra openvino')
def test_a_run_with_openvino_clusters_as_one_without(world, tmp_path):
    runs = [short_run(world, tmp_path / word, feature_precision=word) for word in ('fused', 'openvino')]
    first, second = (run.history[0]['n_clusters'] for run in runs)
    assert first == second > 1


def test_a_missing_openvino_is_named_in_a_sentence(world, tmp_path):
    words = 'train --method full --epochs 1 --feature-precision openvino --dataset pedworld-tiny'
    program = """
import sys
sys.modules['openvino'] = None
from mcl.cli import main
main(sys.argv[1:])
"""
    words = [*words.split(), '--data-dir', str(world), '--run-dir', str(tmp_path / 'run')]
    done = subprocess.run([sys.executable, '-c', program, *words], capture_output=True, text=True)
    advice = "this needs the package openvino: run `pip install 'mcl-reid[openvino]'`"
    assert done.returncode == 2 and done.stderr.splitlines()[-1].endswith(advice), done.stderr


def test_the_benchmark_of_features_says_where_it_ran():
    file = Path(__file__).parent.parent / 'tools' / 'features.py'
    spec = importlib.util.spec_from_file_location('features_tool', file)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    told = tool.common('rate', tool.now())
    assert told['processor'] and told['commit'] and told['has_bfloat16'] in (True, False)
    assert tool.key_of(told)[:2] == ('rate', told['has_bfloat16'])
