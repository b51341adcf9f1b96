"""Input that is broken, misspelt, too large or from a stranger: named in one line, or read rightly."""

import json
import os
import shutil
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mcl
from mcl.cli import main
from mcl.clustering import auto_eps, eps_profile, silhouette
from mcl.core import open_array
from mcl.data import load_dataset, load_folder
from mcl.images import ImageStore, decode
from mcl.jaccard import jaccard_graph
from mcl.losses import soft_weighted_triplet_loss
from mcl.models import build_model, export_model
from mcl.names import image_files
from mcl.pedworld import render
from mcl.prototypes import MetaPrototypes
from mcl.report import as_page
from mcl.samples import Sample
from mcl.shards import annotate_shards, read_shards
from mcl.sources import FeatureFiles, prototypes_of
from mcl.tables import read_crops, search_paths
from mcl.world import World

HUGE = '9' * 25


def put(root, *names):
    "Small images of these names below a folder."
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (8, 16), (90, 100, 200)).save(path)
    return root


@pytest.mark.parametrize(
    'pattern, words',
    [
        ('(', 'not a regular expression'),
        ('(?P<camera>a', 'not a regular expression'),
        ('a{99999999999999999999}', 'not a regular expression'),
        (r'(?P<camra>\d+)', 'did you mean camera'),
        (r'(?P<camid>\d+)', 'did you mean camera'),
        (r'(?P<Time>\d+)', 'did you mean time'),
        (r'c\d+', 'names no group'),
        (r'c(?P<pid>9+)', 'pid is'),
        (r'c(?P<pid>9+)x', 'does not fit'),
    ],
)
def test_a_pattern_that_cannot_be_meant(pattern, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        read_crops(put(tmp_path, f'c{HUGE}.png'), pattern)


@pytest.mark.parametrize('pattern', [r'(?P<pid>(a+)+)b', r'(?P<pid>(a|a)*)b', r'(?P<pid>(a*)*(a*)*)b'])
def test_a_pattern_that_tries_for_ever_is_given_up(pattern):
    with pytest.raises(ValueError, match=r'ac/a{50}: the pattern .* does not finish'):
        search_paths(pattern, ['ab', 'ac/' + 50 * 'a', 'ab'], seconds=0.5)


@pytest.mark.parametrize(
    'lines, words',
    [
        ('path,camera\na.png,1', 'did you mean camid'),
        ('path,persn,pid\na.png,1,1', 'persn'),
        ('pth,pid\na.png,1', 'did you mean path'),
        (f'path,pid\na.png,{HUGE}', 'line 2: pid is'),
        (f'path,camid\na.png,{"9" * 5000}', 'line 2: camid is'),
        ('path,time\na.png,-1e308\nb.png,1e308', 'do not fit on one clock'),
        ('path,time\na.png,1e999\nb.png,1', 'line 2: time is'),
        ('path\n../a.png\nb.png', 'line 2'),
    ],
)
def test_a_table_that_cannot_be_meant(lines, words, tmp_path):
    table = tmp_path / 'table.csv'
    table.write_text(lines)
    with pytest.raises(ValueError, match=words):
        read_crops(put(tmp_path / 'crops', 'a.png', 'b.png'), table=table)


@pytest.mark.parametrize(
    'name, words',
    [
        (f'{HUGE}_c1s1_000451_03.jpg', 'person is'),
        (f'0002_c{HUGE}s1_000451_03.jpg', 'camera is'),
        (f'0002_c1s{HUGE}_000451_03.jpg', 'sequence is'),
        (f'0002_c1s1_{HUGE}_03.jpg', 'frame is'),
    ],
)
def test_a_number_in_a_name_that_fits_no_array(name, words, tmp_path):
    put(tmp_path, f'bounding_box_train/{name}')
    with pytest.raises(ValueError, match=words):
        load_folder(tmp_path)


def listed(root, train, query='0001/0001_000_02_0303noon_0008_0.jpg 1'):
    "MSMT17 in small, with these lines in the list of training images."
    put(root, 'train/0000/0000_000_01_0303morning_0008_0.jpg', 'test/0001/0001_000_02_0303noon_0008_0.jpg')
    put(root, 'test/0001/0001_001_02_0303noon_0008_0.jpg')
    (root / 'list_train.txt').write_text(train)
    (root / 'list_query.txt').write_text(query)
    (root / 'list_gallery.txt').write_text('0001/0001_001_02_0303noon_0008_0.jpg 1')
    return root


FINE = '0000/0000_000_01_0303morning_0008_0.jpg 0\n'


@pytest.mark.parametrize(
    'lines, words',
    [
        ('../test/0001/0001_000_02_0303noon_0008_0.jpg 1', 'list_train.txt, line 1.*outside'),
        ('/etc/0001_000_02_0303noon_0008_0.jpg 1', 'list_train.txt, line 1.*outside'),
        ('0000/../../test/0001/0001_000_02_0303noon_0008_0.jpg 1', 'outside'),
        (FINE + './' + FINE, 'line 2.*image of line 1'),
        (f'0000/0000_000_01_0303morning_0008_0.jpg {HUGE}', 'line 1: person is'),
        (f'0000/0000_000_{HUGE}_0303morning_0008_0.jpg 0', 'line 1: camera is'),
        (f'0000/0000_000_01_0303morning_{HUGE}_0.jpg 0', 'line 1: frame is'),
        ('0000/0000_000_01_0303morning_0008_0.jpg --0', 'line 1'),
    ],
)
def test_a_list_that_leads_elsewhere_or_twice_to_one_image(lines, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        load_folder(listed(tmp_path, lines))


def test_one_image_in_two_lists(tmp_path):
    assert len(load_folder(listed(tmp_path / 'fine', FINE)).query) == 1
    twice = listed(tmp_path / 'twice', FINE, query='0001/0001_001_02_0303noon_0008_0.jpg 1')
    with pytest.raises(ValueError, match='list_query.txt and in list_gallery.txt'):
        load_folder(twice)


@pytest.mark.parametrize(
    'names, times',
    [
        (('0001_c3s1_36.jpg', '0001_c3s1_2.jpg'), [None, None]),
        (('0000_c1_0303morning_0004.jpg', '0000_c1_0303noon_0008.jpg'), [1 / 3, 1]),
        (('0002_c1s1_000010_01.jpg', '0002_c1s1_000020_01.jpg'), [0.5, 1]),
    ],
    ids=['personx', 'msmt17', 'market1501'],
)
def test_the_time_of_a_folder_is_read_by_the_rule_of_its_names(names, times, tmp_path):
    for folder in ('bounding_box_train', 'query', 'bounding_box_test'):
        put(tmp_path, *(f'{folder}/{name}' for name in names))
    found = [s.time for s in load_folder(tmp_path).train]
    assert found == [None, None] if times[0] is None else found == pytest.approx(times)


def link(place, target):
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target, target_is_directory=True)


def test_links_never_count_an_image_twice_nor_walk_for_ever(tmp_path):
    root = put(tmp_path / 'root', 'a/1.png', '.store/2.png')
    put(tmp_path / 'pool', '3.png', 'deep/4.png')
    link(root / 'b', root / 'a')
    link(root / 'c' / 'up', root)
    link(root / 'd', tmp_path / 'pool')
    link(root / 'e', tmp_path / 'pool' / 'deep')
    link(root / 'f', root / '.store')
    link(tmp_path / 'pool' / 'back', tmp_path / 'pool' / 'turn')
    link(tmp_path / 'pool' / 'turn', root)
    link(root / 'g', tmp_path)
    found = [path.relative_to(root).as_posix() for path in image_files(root, nested=True)]
    assert found == ['a/1.png', 'd/3.png', 'd/deep/4.png', 'f/2.png']
    link(tmp_path / 'other', root)
    assert len(image_files(tmp_path / 'other', nested=True)) == 4


def test_a_folder_in_a_thousand_others(tmp_path):
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        for _ in range(1100):
            os.mkdir('d')
            os.chdir('d')
        Image.new('RGB', (8, 16)).save('deep.png')
        os.chdir(before)
        assert [path.name for path in image_files(tmp_path, nested=True)] == ['deep.png']
    finally:
        os.chdir(before)
        subprocess.run(['rm', '-r', tmp_path / 'd'], check=True)  # too deep for shutil.rmtree


def test_a_pipe_named_like_an_image(tmp_path):
    os.mkfifo(put(tmp_path, 'a.png') / 'pipe.jpg')
    samples = load_folder(tmp_path).train
    with pytest.raises(ValueError, match='pipe.jpg.*not a file'):
        ImageStore(samples, progress=False)
    assert len(ImageStore(samples, on_error='skip', progress=False)) == 1


SMALL = World(4, 4, 2, size=(32, 16))


@pytest.mark.parametrize('note', ['{"comp', '[]', '[["complete", true]]', '7', 'null', '[' * 10**5, '\xff'])
def test_a_damaged_note_of_a_world(note, tmp_path):
    put(tmp_path, 'bounding_box_train/0002_c1s1_000451_03.jpg')
    (tmp_path / 'pedworld.json').write_bytes(note.encode('latin1'))
    for use in (load_folder, lambda folder: render(SMALL, folder, progress=False)):
        with pytest.raises(FileExistsError, match='pedworld.json is damaged.*delete'):
            use(tmp_path)


def test_numbers_of_numpy_make_the_same_world(tmp_path):
    sides = (np.int32(32), 16)
    world = World(np.int64(4), np.float32(4), np.int8(2), size=sides, lookalikes=np.float64(0.25))
    folder = render(world, tmp_path / 'world', progress=False)
    assert render(World(4, 4, 2, size=(32, 16), lookalikes=0.25), folder, progress=False) == folder


@pytest.mark.parametrize(
    'fields', [dict(n_ids=1), dict(n_test_ids=0), dict(n_query=0, n_gallery=8), dict(n_query=8, n_gallery=0)]
)
def test_a_world_that_could_not_be_tested_is_refused_before_it_is_drawn(fields, tmp_path):
    world = World(**{**dict(n_ids=4, images_per_id=4, n_cams=2, size=(32, 16)), **fields})
    with pytest.raises(ValueError, match='nothing could be tested'):
        render(world, tmp_path / 'world', progress=False)
    assert not (tmp_path / 'world').exists()


@pytest.mark.parametrize(
    'changes, words',
    [
        ('-n_ids=' + HUGE, 'n_ids'),
        ('-n_ids=999999999999', 'at most'),
        ('-n_cams=1000', 'at most 999'),
        ('-seed' + '9' * 5000, 'seed'),
        ('-return_rate=1.2.3', 'return_rate'),
        ('-retrun_rate=1', 'did you mean return_rate'),
    ],
)
def test_a_name_of_a_world_with_impossible_numbers(changes, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        load_dataset(f'pedworld-tiny{changes}', root=tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_only_drafts_of_our_own_dead_processes_are_tidied_away(tmp_path):
    render(SMALL, tmp_path / 'world', progress=False)
    note = tmp_path / 'world' / 'pedworld.json'
    note.write_text(json.dumps(json.loads(note.read_text()) | {'complete': False}))
    ours, film = (note.with_name(name) for name in ('x.jpg.999999999.part', 'film.part'))
    for draft in (ours, film):
        draft.write_text('half')
    render(SMALL, tmp_path / 'world', progress=False)
    assert film.exists() and not ours.exists()


RAMP = np.linspace(0, 1, 32 * 64).reshape(64, 32)


@pytest.mark.parametrize('most', [255, 1023, 4095, 16383, 65535])
def test_grey_images_of_any_depth_are_as_bright_as_those_of_eight_bits(most, tmp_path):
    Image.fromarray(np.round(RAMP * most).astype(np.uint16)).save(tmp_path / 'deep.png')
    assert np.abs(decode(tmp_path / 'deep.png', (64, 32))[0] - 255 * RAMP).max() <= 1


@pytest.mark.parametrize('low, high, fits', [(0, 1, True), (0, 255, True), (0, 300, False), (-1, 1, False)])
def test_real_numbers_are_scaled_or_refused(low, high, fits, tmp_path):
    Image.fromarray((low + (high - low) * RAMP).astype(np.float32)).save(tmp_path / 'real.tiff')
    if fits:
        assert np.abs(decode(tmp_path / 'real.tiff', (64, 32))[0] - 255 * RAMP).max() <= 1
    else:
        with pytest.raises(ValueError, match='real.tiff.*its numbers run from'):
            decode(tmp_path / 'real.tiff', (64, 32))


def png(path, values):
    "Write RGB of 16 bits, which Pillow reads and does not write."
    import zlib

    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    height, width, _ = values.shape
    rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in values)
    head = struct.pack('>IIBBBBB', width, height, 16, 2, 0, 0, 0)
    content = chunk(b'IHDR', head) + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + content)


def test_colours_of_sixteen_bits_are_read_or_refused(tmp_path):
    png(tmp_path / 'fine.png', np.full((64, 32, 3), 100 * 256 + 7))
    png(tmp_path / 'dark.png', np.full((64, 32, 3), 200))
    assert (decode(tmp_path / 'fine.png', (64, 32)) == 100).all()
    with pytest.raises(ValueError, match='dark.png.*nearly black'):
        decode(tmp_path / 'dark.png', (64, 32))


@pytest.mark.parametrize('ending', ['jpg', 'png', 'tiff'])
@pytest.mark.parametrize('held', range(1, 9))
def test_an_image_is_seen_as_it_was_taken(held, ending, tmp_path):
    upright = Image.new('RGB', (64, 128))
    upright.paste((200, 100, 50), (0, 0, 32, 64))
    way = (None, 'FLIP_LEFT_RIGHT', 'ROTATE_180', 'FLIP_TOP_BOTTOM', 'TRANSPOSE', 'ROTATE_90', 'TRANSVERSE',
           'ROTATE_270')[held - 1]
    lying = upright.transpose(Image.Transpose[way]) if way else upright
    notes = Image.Exif()
    notes[0x0112] = held
    lying.save(tmp_path / f'a.{ending}', exif=notes)
    upright.save(tmp_path / 'b.png')
    a, b = (decode(tmp_path / name, (64, 32)).astype(int) for name in (f'a.{ending}', 'b.png'))
    assert np.abs(a - b).mean() < 3


@pytest.mark.filterwarnings('ignore:Corrupt EXIF')
def test_broken_notes_do_not_matter_and_programs_do_not_run(tmp_path):
    Image.new('RGB', (32, 64), (9, 9, 9)).save(tmp_path / 'a.jpg', exif=b'Exif\0\0MM\0*\xff\xff\xff\xff')
    assert decode(tmp_path / 'a.jpg', (64, 32)).shape == (3, 64, 32)
    program = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n'
    (tmp_path / 'b.png').write_bytes(program)
    with pytest.raises(ValueError, match='b.png: cannot be read'):
        decode(tmp_path / 'b.png', (64, 32))


@pytest.mark.parametrize('side', [10_000, 30_000])
@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
def test_an_image_that_unfolds_to_gigapixels(side, tmp_path):
    Image.new('1', (side, side)).save(tmp_path / 'huge.png')
    with pytest.raises(ValueError, match='huge.png.*pixels'):
        decode(tmp_path / 'huge.png', (64, 32))


@pytest.mark.parametrize(
    'options, words',
    [
        (dict(on_error='Skip'), 'did you mean skip'),
        (dict(on_error='foo'), 'choose one of raise, skip'),
        (dict(size=(0, 32)), 'each 1 to 4096'),
        (dict(size=(99999, 32)), 'each 1 to 4096'),
    ],
)
def test_an_image_store_that_cannot_be_meant(options, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        ImageStore([Sample(put(tmp_path, 'a.png') / 'a.png')], progress=False, **options)


@pytest.mark.parametrize(
    'shape', ['(-5, 16)', '(5, -16)', '(-1, -1)', f'({HUGE}, 16)', "('a',)", '(1.5, 2)', '7']
)
def test_a_header_with_an_impossible_shape(shape, tmp_path):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b'\n'
    begin = b'\x93NUMPY\x01\x00' + struct.pack('<H', len(header))
    (tmp_path / 'a.npy').write_bytes(begin + header + bytes(320))
    with pytest.raises(ValueError, match='a.npy cannot be read'):
        open_array(tmp_path / 'a.npy')


@pytest.fixture
def points(tmp_path):
    "A file of twenty features."
    np.save(tmp_path / 'points.npy', np.tile(np.eye(4, dtype=np.float32), (5, 1)))
    return tmp_path / 'points.npy'


@pytest.mark.parametrize(
    'largest, kind, words',
    [(10**10, np.int64, 'No image has label 1'), (2**64 - 1, np.uint64, 'reach 2..63')],
)
def test_labels_of_an_impossible_size(largest, kind, words, points):
    with pytest.raises(ValueError, match=words):
        prototypes_of(FeatureFiles(points), np.array([0, largest, 0], kind))


TASK = dict(top_k=2, shard_rows=5, progress=False)


@pytest.fixture
def soft(points):
    "A finished annotation in four shards."
    annotate_shards(MetaPrototypes(torch.eye(4)), points, points.parent / 'soft', **TASK)
    return points.parent / 'soft'


def again(soft):
    return annotate_shards(MetaPrototypes(torch.eye(4)), soft.parent / 'points.npy', soft, **TASK)


def change(soft, **entries):
    manifest = json.loads((soft / 'manifest.json').read_text())
    (soft / 'manifest.json').write_text(json.dumps(manifest | entries))


@pytest.mark.parametrize(
    'text', ['', '{}', '[]', '5', 'null', '[' * 10**5, '{"source": 1, "finished": true, "shards": []}']
)
def test_a_damaged_manifest(text, soft):
    (soft / 'manifest.json').write_text(text)
    for use in (again, lambda soft: list(read_shards(soft))):
        with pytest.raises(ValueError, match='manifest.json is damaged'):
            use(soft)


@pytest.mark.parametrize('name', ['../part-00000', '/part-00000', 'part-00000/../../part-00000', 'secret', 7])
def test_a_manifest_that_leads_out_of_its_folder(name, soft):
    change(soft, shards=[dict(shard=name, start=0, stop=5, rows=5)])
    for use in (again, lambda soft: list(read_shards(soft))):
        with pytest.raises(ValueError, match='manifest.json is damaged'):
            use(soft)


def test_a_shard_that_is_a_link_out_of_its_folder(soft):
    shard = soft / 'part-00000.prototypes.npy'
    os.rename(shard, soft.parent / 'elsewhere.npy')
    shard.symlink_to(soft.parent / 'elsewhere.npy')
    with pytest.raises(ValueError, match='leads out of its folder'):
        list(read_shards(soft))


def test_a_shard_whose_bytes_changed_is_made_again(soft):
    before = {path.name: path.read_bytes() for path in soft.iterdir()}
    shard = soft / 'part-00001.probabilities.npy'
    shard.write_bytes(shard.read_bytes()[:-4] + b'....')
    again(soft)
    assert {path.name: path.read_bytes() for path in soft.iterdir()} == before


def test_a_manifest_of_before_without_checksums_goes_on(soft):
    before = (soft / 'manifest.json').read_bytes()
    stamps = {path: path.stat().st_mtime_ns for path in soft.glob('*.npy')}
    shards = json.loads(before)['shards']
    change(soft, shards=[{key: entry[key] for key in entry if key != 'sha256'} for entry in shards])
    again(soft)
    assert {path: path.stat().st_mtime_ns for path in soft.glob('*.npy')} == stamps
    assert (soft / 'manifest.json').read_bytes() == before


def test_annotation_leaves_drafts_of_others_alone(soft):
    import socket

    dead = f'.manifest.json.{socket.gethostname()}.999999999.ab.part'
    others = ['film.part', '.thesis.txt.host.1.ab.part', '.manifest.json.elsewhere.999999999.ab.part']
    others += [f'.manifest.json.{socket.gethostname()}.{os.getppid()}.ab.part']
    for name in (dead, *others):
        (soft / name).write_text('half')
    again(soft)
    assert {path.name for path in soft.iterdir() if path.suffix == '.part'} == set(others)


@pytest.fixture(scope='module')
def crowd():
    rng = np.random.default_rng(0)
    people = rng.normal(size=(12, 8)).repeat(20, axis=0)
    rows = people + 0.4 * rng.normal(size=people.shape)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize('cut', [0.6, 0.7])
def test_eps_is_not_chosen_where_the_graph_shows_nothing(cut, crowd):
    graph = jaccard_graph(crowd, k1=10, k2=3, eps=cut)
    with pytest.warns(UserWarning, match='stores no distance above'):
        assert auto_eps(eps_profile(graph), growth=1e9) <= cut + 1e-9
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        whole = jaccard_graph(crowd, k1=10, k2=3, eps=0.95)
        assert auto_eps(eps_profile(whole, reach=0.95), growth=1e9) == 0.95


@pytest.mark.parametrize('outliers', [1, 3, 240])
def test_a_single_cluster_has_no_silhouette(outliers, crowd):
    labels = np.where(np.arange(240) % outliers, -1, 0)
    assert np.isnan(silhouette(jaccard_graph(crowd, k1=10), labels)).all()


@pytest.mark.parametrize('kind', [torch.float32, torch.float64])
def test_a_negative_whose_weight_is_rounding_noise_does_not_count(kind):
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        soft = torch.rand(1, 301, generator=generator).to(kind).softmax(1).repeat(6, 1)
        features = torch.nn.functional.normalize(torch.randn(6, 5, generator=generator), dim=1).to(kind)
        labels = [0, 0, 0, 1, 1, 1]
        assert soft_weighted_triplet_loss(features, soft, [1] * 6, margin=2, labels=labels) == 0
        assert soft_weighted_triplet_loss(features, soft, [1, 1, 1, 2, 2, 2], margin=2, labels=labels) > 0.1


def command(capsys, *words):
    "Status of a command, and all that it says."
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    said = capsys.readouterr()
    return ended.value.code or 0, said.out, said.err


STRANGE = ['<b>x', '[red]x', '$x_1$', 'a\nb', '\x1b[31mred', '\x9b31m', '\u202eabc', '\udcff', '%s{0}']


@pytest.mark.parametrize('name', STRANGE)
def test_a_file_name_commands_no_terminal(name, crowd, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save(f'{name}.npy', crowd)
    status, out, err = command(capsys, 'cluster', f'{name}.npy', f'{name}-labels.npy')
    assert status == 0 and len(np.load(f'{name}-labels.npy')) == len(crowd)
    shown = (out + err).replace('\n', '').replace('\r', '')
    assert shown.isprintable() and 'clusters' in out
    status, out, err = command(capsys, 'cluster', f'{name}-nowhere.npy', 'labels.npy')
    assert status == 2 and len(err.splitlines()) == 1 and err.strip().isprintable()


@pytest.mark.parametrize('content', [b'PK\x03\x04', b'PK\x05\x06' + bytes(18), b"\x93NUMPY\x01\0\x04\0{'a\n"])
def test_what_is_named_like_an_array_and_is_none(content, tmp_path):
    (tmp_path / 'a.npy').write_bytes(content)
    with pytest.raises(ValueError, match='a.npy cannot be read'):
        open_array(tmp_path / 'a.npy')


@pytest.mark.parametrize('height', [-5, 0, 10**9])
def test_a_network_for_images_that_cannot_be(height, tmp_path):
    with pytest.raises(ValueError, match='each 1 to 4096'):
        export_model(build_model('small', None), tmp_path / 'm.pt2', (height, 32))


def test_labels_that_are_only_read_draw_no_warning(crowd, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save('f.npy', crowd)
    np.save('l.npy', np.arange(len(crowd)) // 20)
    status, out, err = command(capsys, 'annotate', 'f.npy', 'l.npy', 'soft.npz')
    assert status == 0 and 'mcl:' not in err


def test_a_package_and_a_home_that_cannot_be_written(crowd, tmp_path):
    package = Path(mcl.__file__).parent
    shutil.copytree(package, tmp_path / 'mcl', ignore=shutil.ignore_patterns('__pycache__'))
    for place in (tmp_path / 'mcl' / '__pycache__', tmp_path / 'home'):
        place.write_text('a file, so no folder can be made here')
    np.save(tmp_path / 'f.npy', crowd)
    home = str(tmp_path / 'home')
    environment = {**os.environ, 'PYTHONPATH': str(tmp_path), 'HOME': home, 'XDG_CACHE_HOME': f'{home}/cache'}
    environment.pop('NUMBA_CACHE_DIR', None)
    words = [sys.executable, '-m', 'mcl', 'cluster', 'f.npy', 'l.npy']
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and len(np.load(tmp_path / 'l.npy')) == len(crowd), done.stderr
    assert done.stderr.count('NUMBA_CACHE_DIR') == 1 and 'Traceback' not in done.stderr


def test_a_name_with_markup_is_text_in_a_report():
    script = '<script>alert(1)</script>'
    page = as_page(script, {script: {script: script}}, {})
    assert '<script>' not in page and page.count('&lt;script&gt;') == 5
