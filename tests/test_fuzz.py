"""Every command with random options, names and files, many of them broken. Whatever comes in:

the status is 0, 2 or 130; an error is one line and no traceback; no half-written file stays; no file changes
but those that the command was to write; and what goes through gives the numbers of a plain call.

The inputs are the same each time. `pytest tests/test_fuzz.py --fuzz-examples 1000` tries more of them.
"""

import contextlib
import io
import json
import os
import shutil
import tempfile
from pathlib import Path

import bounds
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mcl import world as worlds_module
from mcl.cli import main
from mcl.clustering import cluster
from mcl.pedworld import render
from mcl.prototypes import MetaPrototypes
from mcl.studies import study_runs
from mcl.world import World

pytestmark = [
    pytest.mark.filterwarnings('default'),  # of the command line, they are lines on standard error
]
SMALL = World(8, 8, 3, seed=1, size=(64, 32))
SHORT = dict(epochs=1, steps_per_epoch=2, p=3, k=2, n_subsets=2, k1=6, k2=2, min_samples=2)


def examples(few):
    "So many inputs in `make test`, and as many as were asked for otherwise."
    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    return settings(
        max_examples=bounds.EXAMPLES or few,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=checks,
        print_blob=False,
        report_multiple_bugs=False,
    )


def settings_of(**values):
    return [word for name, value in values.items() for word in ('--set', f'{name}={value}')]


def call(words, cwd):
    "Status, standard output and standard error of the command, in this process."
    out, err, before = io.StringIO(), io.StringIO(), os.getcwd()
    os.chdir(cwd)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main([str(word) for word in words])
        status = 'returned'
    except SystemExit as ended:
        status = ended.code or 0
    finally:
        os.chdir(before)
    return status, out.getvalue(), err.getvalue()


def contents(folder):
    "Every file below a folder, and what is in it."
    found = {}
    for path, folders, files in os.walk(folder):
        for name in folders + files:
            place = os.path.join(path, name)
            plain = os.path.isfile(place) and not os.path.islink(place)
            found[os.path.relpath(place, folder)] = Path(place).read_bytes() if plain else None
    return found


def said(err):
    "Lines of standard error; of a progress bar, what it shows last."
    return [line.rpartition('\r')[2] for line in err.splitlines() if line.rpartition('\r')[2].strip()]


UNHELPFUL = ('Expecting', "'utf-8'", 'Extra data', 'Invalid', "'dict'", 'list indices', 'unknown settings')


def is_readable(text):
    return all(letter.isprintable() or letter in '\n\r' for letter in text)


def check(words, root, written=()):
    """The property. `root` holds the folder `here`, in which the command runs; `written` are the outputs, as
    names in that folder: files or folders.
    """
    before = contents(root)
    status, out, err = call(words, root / 'here')
    about = f'{words!r}\nstatus {status}\n{out}\n{err}'
    assert status in (0, 2, 130), about
    assert 'Traceback' not in out + err and 'fault of mcl' not in err, about
    assert is_readable(out) and is_readable(err.replace('\x1b[A', '')), about
    lines = said(err)
    if status and 'Usage: mcl' not in out:
        assert lines[-1].startswith('mcl: ') and len(lines[-1]) > 10, about
        assert not any(line.startswith('Usage: mcl') for line in lines), about
        assert not any(lines[-1].startswith(f'mcl: {words}') for words in UNHELPFUL), about
    after = contents(root)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    outputs = [os.path.normpath(os.path.join('here', name)) for name in written]
    strange = [n for n in changed if not any(n == o or n.startswith(o + os.sep) for o in outputs)]
    assert not strange, (strange, about)
    assert not [name for name in after.keys() - before.keys() if name.endswith('.part')], about
    single = [name for name in outputs if name in changed and after.get(name) is not None]
    assert status == 0 or not single, (single, about)
    return status


# --- what goes in

MARKUP = [
    '<b>x</b>',
    '[red]x[/red]',
    '[/x]',
    '$x_1$',
    '%s',
    '{0}',
    '`x`',
    '&amp;',
    '"x"',
    "'",
    'a,b',
    'a=b',
    '#',
]
NASTY = [
    '-x',
    '--help',
    ' ',
    ' a ',
    '.a',
    'a\nb',
    'a\rb',
    '\x1b[31mred',
    '\x07',
    '\x7f',
    '\u202eabc',
    'ü',
    '行人',
    'a' * 200,
    'a' * 300,
    '\udcff',
    '…',
    'e\u0301',
    '\u2028',
    '...',
    'COM1',
    '*',
    '?',
    '\\',
    'a~b',
]
LETTERS = st.characters(exclude_characters='/\0', exclude_categories=['Cs'])
stems = st.one_of(
    st.sampled_from(['a', 'crops', 'x1'] + MARKUP + NASTY), st.text(LETTERS, min_size=1, max_size=12)
).filter(lambda name: name not in ('.', '..') and name[:1] != '~')


def names(ending=''):
    return stems.map(lambda stem: stem + ending)


def rarely(strategy, usual):
    "Mostly one of the usual values, so that most inputs come far."
    return st.one_of(*[st.sampled_from(usual)] * 3, strategy)


NUMBERS = [
    '0',
    '-1',
    '1',
    '2',
    '3',
    '0.5',
    '1e9',
    '-0',
    'nan',
    'inf',
    '-inf',
    '1e400',
    '1e-400',
    '9' * 30,
    '',
    'x',
    '٣',
    '1_0',
    ' 3',
    '0x10',
    'True',
    'None',
    '\x1b',
    '1.0',
    '2147483648',
    '9223372036854775808',
]
odd_numbers = st.one_of(
    st.sampled_from(NUMBERS), st.integers().map(str), st.floats().map(str), st.text(max_size=4)
)


def number(*usual):
    return rarely(odd_numbers, [str(value) for value in usual])


def options(**known):
    "Some of the options, as a dictionary, each with one of its values; a flag has the value None."
    return st.fixed_dictionaries({}, optional=known)


def words_of(chosen):
    "Options as words of the command line."
    found = []
    for name, value in chosen.items():
        flag = f'--{name.replace("_", "-")}'
        found += [flag] if value is None else [flag, value]
    return found


odd_values = st.sampled_from([np.nan, np.inf, -np.inf, 0, 1e-40, 1e30, -1, 1e300])
DTYPES = [
    '<f4',
    '<f4',
    '<f4',
    '<f8',
    '>f4',
    '<f2',
    '<i4',
    '<u8',
    '?',
    '<c8',
    '<U3',
    'O',
    '<M8[s]',
    'V4',
    'f4,f4',
]


def unit(n, d, seed=0, people=6):
    "Unit rows around a few centres, float64."
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(people, d))[np.arange(n) % people] + 0.2 * rng.normal(size=(n, d))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@st.composite
def feature_arrays(draw):
    "Arrays that may be features: mostly unit rows, now and then something else."
    n, d = draw(st.sampled_from([0, 1, 2, 3, 7, 30, 60, 60, 60])), draw(st.sampled_from([1, 2, 8, 8, 8, 33]))
    if draw(st.integers(0, 9)) == 0:
        shape = draw(st.sampled_from([(), (5,), (0,), (3, 0), (0, 0), (2, 3, 4), (1, 1, 1)]))
        array = np.zeros(shape)
    else:
        array = unit(n, d, draw(st.integers(0, 3)), draw(st.sampled_from([1, 2, 6, 30])))
    with np.errstate(all='ignore'):
        if array.size and draw(st.integers(0, 4)) == 0:
            array.flat[draw(st.integers(0, array.size - 1))] = draw(odd_values)
        if array.ndim == 2 and len(array) and draw(st.integers(0, 7)) == 0:
            array[draw(st.integers(0, len(array) - 1))] = draw(odd_values)
        if draw(st.integers(0, 7)) == 0:
            array = array * draw(st.sampled_from([3.0, 0.99, 1e-3, 1e20, 0.0]))
        dtype = draw(st.sampled_from(DTYPES))
        try:
            array = array.astype(dtype)
        except (TypeError, ValueError):
            array = np.zeros(array.shape, dtype)
    return np.asfortranarray(array) if draw(st.booleans()) else array


@st.composite
def label_arrays(draw, n=60):
    "Arrays that may be pseudo labels of at most n rows."
    m = draw(st.sampled_from([n, n, n, 20, 1, 0, n + 1]))
    labels = np.arange(m) % draw(st.sampled_from([1, 3, 6]))
    if m and draw(st.integers(0, 3)) == 0:
        wrong = draw(st.sampled_from([-1, -1, -2, 7, 10**10, 2**62, -(2**63)]))
        labels[draw(st.integers(0, m - 1)) :: draw(st.sampled_from([1, 3, 100]))] = wrong
    if draw(st.integers(0, 9)) == 0:
        labels = draw(st.sampled_from([labels[None], labels[:, None], np.array(3)]))
    dtype = draw(
        st.sampled_from(['<i8', '<i8', '<i8', '<i4', '>i8', 'u1', '<u8', '<f4', '?', 'O', '<U3', '<c8'])
    )
    with np.errstate(all='ignore'):
        return labels.astype(dtype)


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


@st.composite
def damaged(draw, content, always=False):
    "Bytes as they are, cut short, with some of them changed, or of another kind altogether."
    kind = draw(st.sampled_from(['cut', 'flip', 'other', 'longer'] + ['whole'] * 8 * (not always)))
    if kind == 'cut':
        return content[: draw(st.integers(0, len(content)))]
    if kind == 'longer':
        return content + draw(st.binary(min_size=1, max_size=9))
    if kind == 'flip' and content:
        changed = bytearray(content)
        for _ in range(draw(st.sampled_from([1, 1, 3, 30]))):
            place = draw(st.integers(0, min(len(content), draw(st.sampled_from([100, 10**9]))) - 1))
            changed[place] ^= 1 << draw(st.integers(0, 7))
        return bytes(changed)
    return (
        draw(
            st.sampled_from(
                [b'', b'\0', b'{}', b'[]', b'null', b'\x93NUMPY', b'PK\x03\x04', b'\x80\x04N.', b'\xff' * 99]
            )
        )
        if kind == 'other'
        else content
    )


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def changed_json(draw, value):
    "JSON of another shape: a value replaced, left out or added, at any depth."
    keys = (
        list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    )
    if not keys or draw(st.integers(0, 3)) == 0:
        return draw(JSONS)
    key = draw(st.sampled_from(keys))
    copy = value.copy()
    if draw(st.integers(0, 3)) == 0:
        del copy[key]
    else:
        copy[key] = draw(changed_json(value[key]))
    return copy


def encoded(image, kind, **how):
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


@st.composite
def images(draw):
    "Image files of all kinds, and files that are none."
    size = draw(st.sampled_from([(32, 64), (32, 64), (1, 1), (1, 300), (300, 1), (7, 5)]))
    mode = draw(
        st.sampled_from(
            [
                'RGB',
                'RGB',
                'RGB',
                'L',
                'P',
                '1',
                'RGBA',
                'LA',
                'CMYK',
                'YCbCr',
                'I;16',
                'I',
                'F',
                'HSV',
                'LAB',
            ]
        )
    )
    values = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(values)
    if mode == 'I;16':
        image = Image.fromarray(values[:, :, 0].astype(np.uint16) * draw(st.sampled_from([1, 16, 257])))
    elif mode in ('HSV', 'LAB', 'YCbCr'):
        image = image.convert('YCbCr' if mode == 'LAB' else mode)
    else:
        image = image.convert(mode)
    kind = draw(
        st.sampled_from(
            ['JPEG', 'JPEG', 'PNG', 'PNG', 'GIF', 'TIFF', 'BMP', 'WEBP', 'PPM', 'EPS', 'PDF', 'ICO']
        )
    )
    try:
        content = encoded(image, kind)
    except (OSError, ValueError, KeyError):
        content = encoded(Image.fromarray(values), 'PNG')
    return draw(damaged(content))


# --- what is there before a command begins


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "A world, a run on it, its features, labels and soft labels: made once, copied for each input."
    root = tmp_path_factory.mktemp('lab')
    render(SMALL, root / 'world', progress=False)
    made = [
        ['train', '--data-dir', 'world', '--run-dir', 'run', *settings_of(**SHORT)],
        ['features', 'run', 'world', 'f.npy'],
        ['cluster', 'f.npy', 'l.npy', '--k1', 6, '--min-samples', 2],
        ['annotate', 'f.npy', 'l.npy', 'soft', '--top-k', 2, '--shard-rows', 20],
    ]
    for words in made:
        status, out, err = call(words, root)
        assert status == 0, err
    return root


@contextlib.contextmanager
def room():
    "A fresh folder with `here`, to work in, and a neighbour that nobody may touch."
    with tempfile.TemporaryDirectory(prefix='fuzz') as folder:
        root = Path(folder).resolve()
        (root / 'here').mkdir()
        (root / 'neighbour').mkdir()
        (root / 'neighbour' / 'thesis.txt').write_text('years of work')
        (root / 'here' / 'notes.txt').write_text('mine')
        yield root


def put(root, name, content):
    "A file in `here`; False where the system knows no such name."
    try:
        (root / 'here' / name).parent.mkdir(parents=True, exist_ok=True)
        (root / 'here' / name).write_bytes(content)
    except (OSError, UnicodeEncodeError):
        return False
    return True


# --- the commands


CLUSTERING = options(
    k1=number(6, 4, 30, 1, 100),
    k2=number(2, 1, 6, 99),
    eps=rarely(odd_numbers, ['0.6', '0.5', '0.95', '1', 'auto']),
    min_samples=number(4, 2, 1, 100),
    clusterer=rarely(st.text(max_size=5), ['dbscan', 'dbscan', 'kmeans', 'leiden']),
    n_clusters=number(2, 5, 60),
    normalise=st.none(),
    no_exact=st.none(),
)


def plain_labels(array, chosen):
    "What `cluster` gives for the same features as plain float32, in memory."
    kinds = dict(
        k1=int,
        k2=int,
        eps=lambda text: text if text == 'auto' else float(text),
        min_samples=int,
        clusterer=str,
        n_clusters=int,
    )
    known = {name: kind(chosen[name]) for name, kind in kinds.items() if name in chosen}
    method = known.pop('clusterer', 'dbscan')
    exact, normalise = 'no_exact' not in chosen, 'normalise' in chosen
    rows = np.ascontiguousarray(array, np.float32)
    return cluster(rows, method=method, exact=exact, normalise=normalise, check=False, **known)


@examples(120)
@given(feature_arrays(), CLUSTERING, names('.npy'), names('.npy') | stems, st.data())
def test_cluster(array, chosen, source, output, data):
    content = data.draw(damaged(npy(array)))
    with room() as root:
        if not put(root, source, content):
            return
        status = check(['cluster', *words_of(chosen), '--', source, output], root, [output])
        if status == 0 and content == npy(array):
            assert np.array_equal(np.load(root / 'here' / output), plain_labels(array, chosen))


@examples(40)
@given(feature_arrays(), feature_arrays(), CLUSTERING, st.booleans(), st.data())
def test_cluster_goes_on(old, new, chosen, again, data):
    content = data.draw(damaged(npy(new)))
    with room() as root:
        put(root, 'old.npy', npy(old))
        put(root, 'new.npy', content)
        chosen = {name: value for name, value in chosen.items() if name not in ('clusterer', 'n_clusters')}
        for source in ['old.npy', 'new.npy', 'new.npy'][: 2 + again]:
            words = ['cluster', source, 'l.npy', '--update', 's.npz', *words_of(chosen)]
            status = check(words, root, ['l.npy', 's.npz'])
            if status:
                return
        assert content == npy(new) and 'no_exact' not in chosen
        both = [np.asarray(array, np.float32) for array in (old, *[new] * (1 + again))]
        assert np.array_equal(np.load(root / 'here' / 'l.npy'), plain_labels(np.concatenate(both), chosen))


MAPPING = options(
    k1=number(6, 4, 30, 1, 100),
    eps=rarely(odd_numbers, ['0.6', '1', 'auto']),
    seed=number(0, 3, 99),
    layout=rarely(st.text(max_size=5), ['pca']),
    normalise=st.none(),
)


@examples(60)
@given(feature_arrays(), label_arrays(), MAPPING, names('.npy'), names('.csv') | stems, st.data())
def test_map(array, labels, chosen, source, output, data):
    content = data.draw(damaged(npy(array)))
    listed = '\n'.join(f'{number}.jpg' for number in range(len(np.atleast_1d(array))))
    chosen = dict(layout='pca') | chosen
    with room() as root:
        if not put(root, source, content):
            return
        put(root, str(Path(source).with_suffix('.txt')), data.draw(damaged(listed.encode())))
        extra = ['--labels', 'l.npy'] if data.draw(st.booleans()) and put(root, 'l.npy', npy(labels)) else []
        status = check(['map', *words_of(chosen), *extra, '--', source, output], root, [output])
        if status == 0:
            assert (root / 'here' / output).read_text().startswith('path,cluster,x,y\n')


ANNOTATION = options(
    top_k=number(2, 1, 5, 6, 100),
    temperature=number(0.05, 1, 0.001),
    shard_rows=number(20, 7, 1, 65536),
    on_error=rarely(st.text(max_size=5), ['raise', 'skip']),
    height=number(64),
    width=number(32),
    arch=rarely(st.text(max_size=5), ['small']),
    device=rarely(st.text(max_size=5), ['cpu', 'auto']),
)


@examples(80)
@given(feature_arrays(), label_arrays(), ANNOTATION, names('.npy'), stems | names('.npz'), st.data())
def test_annotate_features(array, labels, chosen, source, output, data):
    rows, known = data.draw(damaged(npy(array))), data.draw(damaged(npy(labels)))
    with room() as root:
        if not (put(root, source, rows) and put(root, 'l.npy', known)):
            return
        status = check(['annotate', *words_of(chosen), '--', source, 'l.npy', output], root, [output])
        if status == 0 and (rows, known) == (npy(array), npy(labels)) and output.endswith('.npz'):
            found = np.load(root / 'here' / output)
            expected = plain_soft_labels(array, labels, chosen)
            assert np.array_equal(found['prototypes'], expected[1].numpy())
            assert np.allclose(found['probabilities'], expected[0].numpy(), atol=1e-6)


def plain_soft_labels(array, labels, chosen):
    "Soft labels of the same features and labels, all at once and in memory."
    rows, labels = (
        torch.from_numpy(np.ascontiguousarray(array, '<f4')),
        torch.from_numpy(labels.astype('<i8')),
    )
    temperature = float(chosen.get('temperature', 0.05))
    prototypes = MetaPrototypes.from_labels(rows[: len(labels)], labels, temperature=temperature)
    return prototypes.annotate(rows, top_k=min(int(chosen.get('top_k', 5)), len(prototypes.centroids)))


@examples(25)
@given(
    st.sampled_from(
        [
            'manifest.json',
            'prototypes.safetensors',
            'part-00001.prototypes.npy',
            'part-00000.probabilities.npy',
        ]
    ),
    st.data(),
)
def test_an_annotation_goes_on_after_damage(lab, name, data):
    with room() as root:
        for file in ('f.npy', 'l.npy'):
            shutil.copy(lab / file, root / 'here')
        folder = shutil.copytree(lab / 'soft', root / 'here' / 'soft')
        content = (folder / name).read_bytes()
        if name == 'manifest.json' and data.draw(st.booleans()):
            (folder / name).write_text(json.dumps(data.draw(changed_json(json.loads(content)))))
        else:
            (folder / name).write_bytes(data.draw(damaged(content, always=True)))
        words = ['annotate', 'f.npy', 'l.npy', 'soft', '--top-k', 2, '--shard-rows', 20]
        if check(words, root, ['soft']) == 0:
            before, after = contents(lab / 'soft'), contents(folder)
            assert before.keys() == after.keys()
            changed = {file for file in before if before[file] != after[file]}
            assert changed <= {'prototypes.safetensors'}  # which may differ by less than its tolerance


@st.composite
def crops(draw, fewest=1):
    "Names and contents of a folder of images; most are in order."
    found = {}
    for i in range(draw(st.integers(fewest, 10))):
        name = draw(
            rarely(names(draw(st.sampled_from(['.jpg', '.PNG', '.jpeg', '.gif', '']))), [f'c{i % 2}_{i}.png'])
        )
        fine = encoded(
            Image.fromarray(np.random.default_rng(i).integers(0, 256, (64, 32, 3), np.uint8)), 'PNG'
        )
        found[name] = draw(st.one_of(st.just(fine), st.just(fine), st.just(fine), images()))
    return found


def put_crops(root, folder, files):
    for name, content in files.items():
        put(root, Path(folder, name), content)


LOOK = options(
    on_error=rarely(st.text(max_size=5), ['raise', 'skip', 'skip']),
    height=number(64, 64, 16),
    width=number(32, 32, 8),
    arch=rarely(st.text(max_size=5), ['small']),
    device=rarely(st.text(max_size=5), ['cpu', 'auto']),
)
RUN_FILES = ('record.json', 'history.json', 'model.safetensors')


def put_run(root, lab, data, damage):
    "The finished run, one of its files perhaps damaged."
    folder = root / 'here' / 'run'
    folder.mkdir()
    for name in RUN_FILES:
        shutil.copy(lab / 'run' / name, folder)
    if not damage:
        return
    name = data.draw(st.sampled_from(RUN_FILES))
    content = (folder / name).read_bytes()
    if name.endswith('.json') and data.draw(st.booleans()):
        (folder / name).write_text(json.dumps(data.draw(changed_json(json.loads(content)))))
    else:
        (folder / name).write_bytes(data.draw(damaged(content, always=True)))


@examples(60)
@given(crops(), LOOK, stems, names('.npy') | names(), st.data())
def test_features(lab, files, chosen, source, output, data):
    with room() as root:
        put_crops(root, source, files)
        put_run(root, lab, data, data.draw(st.integers(0, 4)) == 0)
        beside = str(Path(output).with_suffix('.txt')) if Path(output).name else output
        words = ['features', *words_of(chosen), '--', 'run', f'./{source}', output]
        if check(words, root, [output, beside, f'{output}.blocks']) == 0:
            assert not (root / 'here' / f'{output}.blocks').exists()
            rows, listed = np.load(root / 'here' / output), (root / 'here' / beside).read_bytes()
            assert len(rows) == listed.count(b'\n') and np.allclose(
                np.linalg.norm(rows, axis=1), 1, atol=1e-4
            )


@examples(30)
@given(crops(), ANNOTATION, stems, st.data())
def test_annotate_images(lab, files, chosen, output, data):
    with room() as root:
        put_crops(root, 'crops', files)
        put_run(root, lab, data, data.draw(st.integers(0, 4)) == 0)
        for file in ('f.npy', 'l.npy'):
            shutil.copy(lab / file, root / 'here')
        words = ['--weights', 'run', '--features', 'f.npy', '--', 'crops', 'l.npy', output]
        check(['annotate', *words_of(chosen), *words], root, [output])


@examples(30)
@given(
    options(
        rerank=st.none(),
        arch=rarely(st.text(max_size=5), ['small']),
        height=number(64),
        width=number(32),
        device=rarely(st.text(max_size=5), ['cpu', 'cuda:7', 'auto']),
        data_dir=rarely(stems, ['.', 'x']),
    ),
    rarely(stems, ['./world', 'market1501', 'msmt17', 'personx', 'veri776']),
    st.data(),
)
def test_evaluate(lab, chosen, dataset, data):
    with room() as root:
        put_run(root, lab, data, data.draw(st.integers(0, 3)) == 0)
        (root / 'here' / 'world').symlink_to(lab / 'world')
        check(['evaluate', 'run', '--dataset', dataset, *words_of(chosen)], root)


@examples(6)
@given(
    options(arch=rarely(st.text(max_size=5), ['small']), height=number(64), width=number(32)),
    names('.pt2'),
    st.data(),
)
def test_export(lab, chosen, output, data):
    with room() as root:
        put_run(root, lab, data, data.draw(st.integers(0, 2)) == 0)
        check(['export', *words_of(chosen), '--', 'run', output], root, [output])


SEARCHING = options(
    top=number(1, 3, 10),
    threshold=rarely(odd_numbers, ['auto', '0.5', '1']),
    on_error=rarely(st.text(max_size=5), ['raise', 'skip', 'skip']),
    height=number(64),
    width=number(32),
    arch=rarely(st.text(max_size=5), ['small']),
    fast=st.none(),
)


@examples(20)
@given(crops(), SEARCHING, rarely(stems, ['found']), rarely(stems, ['index']), st.data())
def test_search(lab, files, chosen, output, index, data):
    with room() as root:
        put_run(root, lab, data, data.draw(st.integers(0, 4)) == 0)
        put_crops(root, 'crops', files)
        gallery = data.draw(rarely(stems, ['crops', 'crops', 'f.npy']))
        if gallery == 'f.npy':
            for file in ('f.npy', 'f.txt'):
                put(root, file, data.draw(damaged((lab / file).read_bytes())))
            (root / 'here' / 'world').symlink_to(lab / 'world')
        query = data.draw(rarely(stems, ['crops', f'crops/{next(iter(files))}']))
        words = [f'--output={output}', f'--index={index}', *words_of(chosen), '--', 'run', query, gallery]
        status = check(['search', *words], root, [output, index])
        if status == 0:
            assert (root / 'here' / output / 'matches.csv').stat().st_size > 0


@examples(6)
@given(rarely(crops(), [None]), names('.html'), st.data())
def test_report(lab, files, output, data):
    with room() as root:
        put_run(root, lab, data, data.draw(st.integers(0, 1)) == 0)
        if files:
            put_crops(root, 'world', files)
        else:
            (root / 'here' / 'world').symlink_to(lab / 'world')
        words = ['--on-error', data.draw(rarely(st.text(max_size=5), ['raise', 'skip']))]
        check(['report', 'run', '--data-dir', 'world', '--output', output, *words], root, [output])


# --- training


@st.composite
def tables(draw, files):
    "A CSV file about these images; now and then with a cell or a line that does not fit."
    columns = draw(rarely(st.lists(stems, max_size=4), [['path', 'pid', 'camid', 'time'], ['path', 'time']]))
    usual = dict(
        path=st.just(''), pid=number(0, 1, 2, ''), camid=number(0, 1, ''), time=number(0, 1, 2.5, '')
    )
    lines = [
        draw(st.sampled_from(['', '', '\ufeff'])) + draw(st.sampled_from([',', ',', ',', ';'])).join(columns)
    ]
    for name in files:
        cells = [name if c == 'path' else draw(usual.get(c, st.text(max_size=3))) for c in columns]
        if draw(st.integers(0, 30)) == 0:
            cells = draw(st.lists(stems, max_size=5))
        lines.append(','.join(f'"{cell}"' if set(cell) & set(',"\n\r') else cell for cell in cells))
    ends = draw(st.sampled_from(['\n', '\n', '\r\n', '\r']))
    return draw(
        damaged(ends.join(lines).encode(draw(st.sampled_from(['utf-8'] * 5 + ['utf-16'])), 'surrogateescape'))
    )


patterns = rarely(
    st.text(max_size=8),
    [
        r'c(?P<camera>\d+)_(?P<time>\d+)',
        r'(?P<camera>c)',
        r'_(?P<time>\d+)',
        r'(?P<pid>\d+)',
        r'(?P<time>.*)',
        r'(?P<camera>.)?',
        '(',
    ],
)
SETTINGS = st.dictionaries(
    st.sampled_from(
        [
            'method',
            'n_subsets',
            'clustered_subsets',
            'split_by',
            'annotated_subsets',
            'phase_two_share',
            'polish_share',
            'refine_rounds',
            'trusted_share',
            'prototype_memory',
            'balance_cameras',
            'views',
            'soft_weights',
            'shared_labels',
            'label_noise',
            'k1',
            'k2',
            'eps',
            'min_samples',
            'temperature',
            'momentum',
            'hard_update',
            'clusterer',
            'merge_distance',
            'time_span',
            'consistency_weight',
            'consistency_from',
            'polish_from',
            'polish_first',
            'triplet_weight',
            'margin',
            'learning_rate',
            'weight_decay',
            'decay_every',
            'arch',
            'weights',
            'height',
            'width',
            'seed',
            'precision',
            'evaluate_every',
            '__class__',
            'p',
            'k',
            '',
        ]
    ),
    rarely(odd_numbers, ['0', '1', '2', '0.5', 'true', 'off', 'random', 'window', 'small', 'none']),
    max_size=4,
)


@examples(60)
@given(
    rarely(crops(4), [None]),
    options(
        method=rarely(
            st.text(max_size=5),
            ['full', 'mcl', 'mcl_plus', 'per_subset', 'subset', 'subset_matched', 'supervised'],
        ),
        recipe=rarely(stems, ['none', 'tiny']),
        device=rarely(st.text(max_size=5), ['cpu', 'auto']),
        log_to=rarely(st.text(max_size=5), ['tensorboard']),
        on_error=rarely(st.text(max_size=5), ['raise', 'skip', 'skip']),
        resume=st.none(),
    ),
    SETTINGS,
    stems,
    st.data(),
)
def test_train(lab, files, chosen, changes, run_dir, data):
    with room() as root:
        words = ['train', '--data-dir', 'crops', f'--run-dir={run_dir}', *words_of(chosen)]
        if files:
            put_crops(root, 'crops', files)
            kind = data.draw(st.sampled_from(['', 'table', 'pattern']))
            if kind == 'table':
                put(root, 't.csv', data.draw(tables(list(files))))
            words += {'': [], 'table': ['--table', 't.csv'], 'pattern': [f'--pattern={data.draw(patterns)}']}[
                kind
            ]
        else:
            (root / 'here' / 'crops').symlink_to(lab / 'world')
        check(words + settings_of(**{**SHORT, **changes}), root, [run_dir])


@examples(12)
@given(st.booleans(), st.data())
def test_train_goes_on_from_a_damaged_checkpoint(lab, keep_record, data):
    with room() as root:
        folder = root / 'here' / 'run'
        shutil.copytree(lab / 'run', folder)
        if not keep_record:
            (folder / 'record.json').unlink()
        content = (folder / 'checkpoint.pt').read_bytes()
        (folder / 'checkpoint.pt').write_bytes(data.draw(damaged(content)))
        (root / 'here' / 'world').symlink_to(lab / 'world')
        words = ['train', '--data-dir', 'world', '--run-dir', 'run', '--resume', *settings_of(**SHORT)]
        if check(words, root, ['run']) == 0:
            before, after = (json.loads((at / 'record.json').read_text()) for at in (lab / 'run', folder))
            assert before['mAP'] == after['mAP']


# --- worlds and studies


@examples(40)
@given(
    rarely(stems, ['tiny', 'desk', 'source']),
    options(
        root=rarely(stems, ['w', 'w', 'notes.txt', '.']),
        seed=number(0, 1, 2),
        layout=rarely(
            st.text(max_size=5),
            ['market1501', 'msmt17_v1', 'msmt17_v2', 'msmt17_market', 'personx', 'veri776'],
        ),
    ),
    rarely(JSONS, [None, None]),
)
def test_pedworld(small_presets, preset, chosen, note):
    with room() as root:
        if note is not None and 'root' in chosen:
            put(root, Path(chosen['root'], 'pedworld.json'), json.dumps(note).encode())
        words = [f'--{name}={value}' for name, value in chosen.items()]
        check(['pedworld', *words, '--', preset], root, [chosen.get('root', 'worlds')])


@pytest.fixture(scope='module')
def small_presets():
    "Worlds of the usual names with a few small images, so that rendering takes a moment."
    before = dict(worlds_module.PRESETS)
    worlds_module.PRESETS.update({name: SMALL for name in before})
    yield
    worlds_module.PRESETS.update(before)


@examples(10)
@given(
    options(
        epochs=number(1), steps=number(1), output=rarely(stems, ['w.safetensors']), work=rarely(stems, ['w'])
    )
)
def test_pretrain(small_presets, chosen):
    if any(
        chosen.get(name, '0').strip().isdecimal() and int(chosen.get(name, 99)) > 2
        for name in ('epochs', 'steps')
    ):
        return
    with room() as root:
        output = chosen.get('output', 'small_source.safetensors')
        words = [f'--{name}={value}' for name, value in {'epochs': '1', 'steps': '1', **chosen}.items()]
        check(
            ['pretrain', *words],
            root,
            [output, Path(output).with_suffix('.json'), chosen.get('work', 'worlds')],
        )


@examples(15)
@given(
    options(
        preset=rarely(stems, ['tiny', 'desk']),
        study=rarely(stems, ['reproduce', 'fractions', 'market']),
        out=rarely(stems, ['o']),
        work=rarely(stems, ['runs']),
        data_dir=rarely(stems, ['x']),
    ),
    st.data(),
)
def test_reproduce_gathers_finished_runs(lab, chosen, data):
    record = json.loads((lab / 'run' / 'record.json').read_text())
    with room() as root:
        chosen = {'preset': 'tiny', 'work': 'runs', 'out': 'o', **chosen}
        for run in study_runs('reproduce', 'tiny')[:2]:
            value = {**record, 'method': run.config.method, 'config': vars(run.config)}
            value = data.draw(changed_json(value)) if data.draw(st.integers(0, 2)) == 0 else value
            put(root, Path(chosen['work'], run.folder, 'record.json'), json.dumps(value).encode())
        words = [f'--{name.replace("_", "-")}={value}' for name, value in chosen.items()]
        check(['reproduce', '--no-missing', *words], root, [chosen['out'], chosen['work'], 'figures'])


# --- words that are no command


@examples(60)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                [
                    'train',
                    'cluster',
                    '--help',
                    '-h',
                    '--version',
                    '--debug',
                    '--',
                    'annotate',
                    '--set',
                    '--k1',
                    '-',
                ]
            ),
            st.text(max_size=6),
            stems,
        ),
        max_size=5,
    )
)
def test_any_words(words):
    if 'train' in words and not set(words) - {'train', '--', '--debug'}:
        return  # it would train on a world that has to be rendered first
    with room() as root:
        if '--debug' in words[:2]:
            words = [word for word in words if word != '--debug']
        check(words, root)
