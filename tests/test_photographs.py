"""No photograph of a person is in this repository, and none can slip in with a picture or a result file."""
import ast
import json
import subprocess
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ('market1501', 'msmt17', 'personx', 'veri776')
DRAWN = ROOT / 'figures' / 'pedworld'                 # pictures of PedWorld, by tools/pedworld_pictures.py
RENDERS_ITS_OWN = ('02c_data.ipynb',)                 # writes PedWorld in the layout of each benchmark


def tracked() -> list[Path]:
    "Files that git keeps, or all files where the tests run outside a checkout."
    listed = subprocess.run(['git', '-C', str(ROOT), 'ls-files'], capture_output=True, text=True)
    if listed.returncode or not listed.stdout:
        pytest.skip('no git checkout')
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def code_of(path: Path) -> str:
    "The Python of a script, or of the code cells of a notebook that are not part of the library."
    if path.suffix == '.py':
        return path.read_text(encoding='utf-8')
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    code = [''.join(cell['source']) for cell in cells if cell['cell_type'] == 'code']
    return '\n'.join(cell for cell in code if not cell.startswith('#| export'))


def loads(code: str) -> list[str]:
    "Calls in a program that could open a data set, unless they are expected to fail."
    tree = ast.parse('\n'.join(line for line in code.splitlines() if not line.startswith('%')))
    refused = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.Call)
               and ast.unparse(node.func) == 'test_fail' for inner in ast.walk(node)}
    return [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call)
            and ast.unparse(node.func).split('.')[-1] in ('load_dataset', 'load_benchmark')
            and id(node) not in refused]


def numbers_only(value, most: int) -> bool:
    "Is this a result: short words and short lists of numbers, no pixels and no features?"
    if isinstance(value, dict):
        return all(numbers_only(inner, most) for inner in value.values())
    if isinstance(value, list):
        return len(value) <= most and all(numbers_only(inner, most) for inner in value)
    return not isinstance(value, str) or len(value) < 2000


def test_files_that_could_hold_a_photograph_are_drawings_or_weights():
    for path in tracked():
        kind = path.suffix.lower()
        assert kind not in ('.jpeg', '.bmp', '.gif', '.tif', '.tiff', '.webp', '.npy', '.npz', '.pt'), path
        if kind == '.jpg':
            assert str(path).startswith(str(DRAWN)), path
        if kind == '.png':
            assert path.is_relative_to(ROOT / 'figures'), path
        if kind == '.safetensors':
            assert path.is_relative_to(ROOT / 'mcl'), path


def opens_a_benchmark(call: str) -> bool:
    "Does a call of a loader name a benchmark, also with its roles exchanged, or a folder given from outside?"
    outside = 'data_dir' in call and "'pedworld-" not in call
    return outside or any(f"'{name}" in call for name in BENCHMARKS)


def test_no_notebook_opens_a_benchmark_so_no_output_can_show_one():
    for path in sorted((ROOT / 'nbs').glob('*.ipynb')):
        if path.name in RENDERS_ITS_OWN:
            continue
        for call in loads(code_of(path)):
            assert not opens_a_benchmark(call), f'{path.name}: {call}'


def test_pictures_of_images_say_which_drawn_world_they_show():
    for path in sorted((ROOT / 'figures').glob('*.png')):
        with Image.open(path) as picture:
            notes = picture.text
        made = notes.get('world', '').startswith('pedworld') or 'made from' in notes or 'made by' in notes
        assert made, f'{path.name} says neither which drawn world it shows nor what it was made from'


def test_no_script_that_draws_pictures_opens_a_benchmark():
    for path in sorted((ROOT / 'tools').glob('*.py')):
        code = code_of(path)
        draws = any(word in code for word in ('savefig', 'save_figure', 'pyplot', 'from PIL'))
        assert not (draws and any(name in call for name in BENCHMARKS for call in loads(code))), path.name


def test_result_files_hold_numbers():
    for path in sorted((ROOT / 'figures' / 'results').rglob('*.json')):
        content = json.loads(path.read_text(encoding='utf-8'))
        runs = content.get('runs', []) if isinstance(content, dict) else content
        rest = {k: v for k, v in content.items() if k != 'runs'} if isinstance(content, dict) else {}
        assert numbers_only(rest, 200) and all(numbers_only(run, 200) for run in runs), path.name


def test_the_check_sees_what_it_looks_for():
    for place in ("'market1501-exchanged'", "'msmt17', root", 'name, data_dir'):
        assert opens_a_benchmark(f'load_dataset({place})')
    assert not opens_a_benchmark("load_dataset('pedworld-desk')")
    assert loads("load_dataset('market1501', root='x')") == ["load_dataset('market1501', root='x')"]
    assert loads("test_fail(load_dataset, args=('market1501',))") == []
    assert not numbers_only(dict(feature=[0.1] * 2048), 200) and not numbers_only('x' * 5000, 200)
