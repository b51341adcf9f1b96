"""Seconds and memory of reading file names: a benchmark's, and a folder of a million empty files, which is
made and removed: figures/results/loading.json.

Each reading runs in a process of its own; its memory is the growth of that process.

    python tools/loading.py --images 1000000 --data-dir DIR
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
RESULTS = ROOT / 'figures' / 'results' / 'loading.json'
IN_A_FOLDER = 1000


def fill(root: Path, n: int) -> None:
    "Empty files with names of images, a thousand in each folder."
    for folder in range(-(-n // IN_A_FOLDER)):
        place = root / f'{folder:05d}'
        place.mkdir()
        at = os.open(place, os.O_RDONLY)
        for image in range(min(IN_A_FOLDER, n - folder * IN_A_FOLDER)):
            name = f'{image % 60:04d}_c{image % 6 + 1}s1_{image:06d}_00.jpg'
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=at))
        os.close(at)


def read(what: str, source: str, root: str | None) -> None:
    "Load a data set, or count the images of a folder, and print what it took."
    from mcl.annotate import count_images
    from mcl.data import load_dataset

    before = psutil.Process().memory_info().rss / 2**20
    start, busy = time.perf_counter(), time.process_time()
    if what == 'count':
        images = count_images(Path(source))[0]
    else:
        images = sum(c['images'] for c in load_dataset(source, root=root).counts().values())
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    mib = max(0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before)
    print(json.dumps(dict(what=what, images=images, seconds=seconds, processor_s=busy, added_mib=mib)))


def measure(*words) -> dict:
    done = subprocess.run([sys.executable, __file__, '--read', *words], check=True, stdout=subprocess.PIPE)
    print(row := json.loads(done.stdout), flush=True)
    return row


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--images', type=int, default=1_000_000)
    parser.add_argument('--data-dir', help='where Market-1501 lies; without it only the folder is read')
    parser.add_argument('--work', help='where the folder is made; a temporary place by default')
    parser.add_argument('--read', nargs='+', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.read:
        read(*args.read, *[None] * (3 - len(args.read)))
        return
    from mcl.core import write_json
    from mcl.records import provenance

    runs = []
    if args.data_dir:
        runs.append(dict(data='Market-1501', **measure('load', 'market1501', args.data_dir)))
    folder = Path(tempfile.mkdtemp(dir=args.work))
    try:
        fill(folder, args.images)
        for what in ('count', 'load'):
            runs.append(dict(data='a folder', **measure(what, str(folder))))
    finally:
        shutil.rmtree(folder)
    write_json(RESULTS, dict(study='loading', provenance=provenance('cpu'), runs=runs))


if __name__ == '__main__':
    main()
