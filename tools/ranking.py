"""Seconds and memory of ranking and of re-ranking, beside the peers' published code:
figures/results/ranking.json.

Every way gets the same features from files and works in a process of its own, whose memory is looked at two
hundred times a second.
The features are those of the starting network: of Market-1501's test images where --data-dir gives them,
else of made-up people of that number.

    python tools/ranking.py --torchreid deep-person-reid --fastreid fast-reid --zhong person-re-ranking
    --data-dir DIR

The peers' compiled ranking is built in a temporary folder, which needs Cython and a C compiler.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import types
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tools')]
from scaling import PeakMemory

RESULTS = ROOT / 'figures' / 'results' / 'ranking.json'
QUERIES, GALLERY, PEOPLE, CAMERAS, DIMENSIONS = 3368, 15913, 751, 6, 256
MAX_RANK = 50
PEERS = {'torchreid': 'torchreid/metrics/rank_cylib', 'fastreid': 'fastreid/evaluation/rank_cylib'}


def made_up_images(folder: Path) -> str:
    "People as clouds around random centres, as many images as Market-1501 has for testing."
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((PEOPLE, DIMENSIONS))
    for split, n in (('query', QUERIES), ('gallery', GALLERY)):
        pids = rng.integers(0, PEOPLE, n)
        features = centres[pids] + 2 * rng.standard_normal((n, DIMENSIONS))
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        save_split(folder, split, features, pids, rng.integers(0, CAMERAS, n))
    return 'made-up people'


def real_images(folder: Path, data_dir: str) -> str:
    "Test images of Market-1501, seen by the network this project starts from."
    from mcl.data import load_dataset
    from mcl.images import ImageStore
    from mcl.models import build_model, extract_features

    dataset, model = load_dataset('market1501', root=data_dir), build_model()
    for split in ('query', 'gallery'):
        samples = getattr(dataset, split)
        features = extract_features(model, ImageStore(samples, progress=False), progress=False).numpy()
        save_split(folder, split, features, [s.pid for s in samples], [s.camid for s in samples])
    return 'Market-1501'


def save_split(folder: Path, split: str, features, pids, camids) -> None:
    np.save(folder / f'{split}.npy', np.asarray(features, np.float32))
    np.save(folder / f'{split}_ids.npy', np.array([pids, camids], np.int64))


def load_splits(folder: Path) -> tuple:
    "Query and gallery features, then person and camera ids of each."
    features = [np.load(folder / f'{split}.npy') for split in ('query', 'gallery')]
    ids = [np.load(folder / f'{split}_ids.npy') for split in ('query', 'gallery')]
    return (*features, ids[0][0], ids[1][0], ids[0][1], ids[1][1])


# --- the ways, each run alone in a process --------------------------------------------------------------


def our_ranking(query, gallery, *ids, **_):
    from mcl.evaluation import rank_metrics
    from mcl.reranking import euclidean_blocks

    found = rank_metrics(euclidean_blocks(query, gallery), *ids, max_rank=MAX_RANK)
    return dict(mAP=100 * found.mAP, rank1=100 * float(found.cmc[0]))


def compiled_ranking(query, gallery, *ids, build, **_):
    "A peer's Cython ranking of a distance matrix made as the peer makes it, by torch."
    import torch

    sys.path.insert(0, str(build))
    from rank_cy import evaluate_cy

    query, gallery = torch.from_numpy(query), torch.from_numpy(gallery)
    squares = query.square().sum(1, keepdim=True) + gallery.square().sum(1)
    distances = squares.addmm_(query, gallery.T, beta=1, alpha=-2).numpy()
    found = evaluate_cy(distances, *ids, MAX_RANK)
    return dict(
        mAP=100 * float(found[1] if np.isscalar(found[1]) else np.mean(found[1])),
        rank1=100 * float(found[0][0]),
    )


def our_reranking(query, gallery, *_, keep, **__):
    from mcl.reranking import rerank

    np.save(keep, rerank(query, gallery))


def zhong_reranking(query, gallery, *_, keep, zhong, precision='float16', **__):
    """The published code in Python, led past the aliases that NumPy has dropped since; in half precision, as
    it stands, or in another.
    """
    for name in ('int', 'float', 'bool'):
        if not hasattr(np, name):
            setattr(np, name, {'int': int, 'float': float, 'bool': bool}[name])
    source = next(Path(zhong, 'python-version').glob('re_ranking_feature*'))
    module = types.ModuleType('zhong')
    text = source.read_text().replace('np.float16', f'np.{precision}')
    exec(compile(text, str(source), 'exec'), module.__dict__)
    np.save(keep, module.re_ranking(query, gallery, 20, 6, 0.3))


WAYS = {
    'our ranking': our_ranking,
    'torchreid ranking': compiled_ranking,
    'fastreid ranking': compiled_ranking,
    'our re-ranking': our_reranking,
    'zhong re-ranking': zhong_reranking,
}


def thinned(folder: Path, every: int) -> Path:
    "The same images, but only every so many of them, in a folder below."
    below = folder / 'thinned'
    below.mkdir()
    for split in ('query', 'gallery'):
        ids = np.load(folder / f'{split}_ids.npy')[:, ::every]
        save_split(below, split, np.load(folder / f'{split}.npy')[::every], *ids)
    return below


def worker(name: str, folder: Path, options: dict) -> None:
    """Run one way here, first on a few images: that imports and compiles, and its memory and seconds do not
    count.
    """
    query, gallery, *ids = load_splits(folder)
    some, others = slice(None, None, 40), slice(None, None, 8)
    WAYS[name](
        query[some], gallery[others], ids[0][some], ids[1][others], ids[2][some], ids[3][others], **options
    )
    with PeakMemory() as memory:
        start = time.perf_counter()
        found = WAYS[name](query, gallery, *ids, **options)
        seconds = time.perf_counter() - start
    print(json.dumps(dict(name=name, seconds=seconds, added_mib=memory.mib, **(found or {}))))


# --- the measurement ------------------------------------------------------------------------------------


def build_peer(checkout: str, inside: str, folder: Path) -> Path:
    "Compile a peer's rank_cy in a folder of its own."
    for source in [*Path(checkout, inside).glob('*.pyx'), Path(checkout, inside, 'setup.py')]:
        (folder / source.name).write_bytes(source.read_bytes())
    subprocess.run(
        [sys.executable, 'setup.py', 'build_ext', '--inplace'], cwd=folder, check=True, capture_output=True
    )
    return folder


def measure(name: str, folder: Path, threads: int, **options) -> dict:
    "One way in its own process."
    command = [
        sys.executable,
        __file__,
        '--worker',
        name,
        '--folder',
        str(folder),
        '--options',
        json.dumps(options),
    ]
    threads = {key: str(threads) for key in ('OMP_NUM_THREADS', 'NUMBA_NUM_THREADS')}
    done = subprocess.run(command, env={**os.environ, **threads}, check=True, capture_output=True, text=True)
    row = json.loads(done.stdout.splitlines()[-1])
    print(f"{row['name']:20} {row['seconds']:8.1f} s {row['added_mib']:8.0f} MiB", flush=True)
    return row


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ('torchreid', 'fastreid', 'zhong', 'data-dir', 'worker', 'folder', 'options'):
        parser.add_argument(f'--{name}')
    parser.add_argument('--threads', type=int, default=2)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker, Path(args.folder), json.loads(args.options))
        return
    from mcl.core import write_json
    from mcl.records import provenance

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = real_images(folder, args.data_dir) if args.data_dir else made_up_images(folder)
        rows = [measure('our ranking', folder, args.threads)]
        for peer, inside in PEERS.items():
            if getattr(args, peer):
                (folder / peer).mkdir()
                build = build_peer(getattr(args, peer), inside, folder / peer)
                rows.append(measure(f'{peer} ranking', folder, args.threads, build=str(build)))
        rows.append(measure('our re-ranking', folder, args.threads, keep=str(folder / 'ours.npy')))
        agreement = None
        if args.zhong:
            rows.append(
                measure(
                    'zhong re-ranking',
                    folder,
                    args.threads,
                    keep=str(folder / 'theirs.npy'),
                    zhong=args.zhong,
                )
            )
            few = thinned(folder, 4)
            measure('our re-ranking', few, args.threads, keep=str(few / 'ours.npy'))
            measure(
                'zhong re-ranking',
                few,
                args.threads,
                keep=str(few / 'theirs.npy'),
                zhong=args.zhong,
                precision='float64',
            )
            agreement = float(abs(np.load(few / 'ours.npy') - np.load(few / 'theirs.npy')).max())
    started = datetime.now(timezone.utc).isoformat(timespec='seconds')
    note = dict(
        study='ranking', data=data, queries=QUERIES, gallery=GALLERY, threads=args.threads, started=started
    )
    write_json(
        RESULTS,
        dict(**note, largest_difference_from_double=agreement, provenance=provenance('cpu'), runs=rows),
    )


if __name__ == '__main__':
    main()
