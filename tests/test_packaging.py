"""What a user of the installed package gets, and what they must not need."""
import ast
import configparser
import inspect
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

import mcl

ROOT = Path(__file__).resolve().parent.parent
MODULES = {path.stem for path in (ROOT / 'mcl').glob('[a-z]*.py')}


def notebooks():
    "Name of a module -> the notebook that exports it, in reading order: by name, such as 01b_people."
    found = {}
    for path in sorted((ROOT / 'nbs').glob('*.ipynb')):
        exported = re.search(r'#\| default_exp (\w+)', path.read_text(encoding='utf-8'))
        if exported:
            found[exported[1]] = path.stem
    return found


ORDER = list(notebooks())


def imports(module):
    "Modules named in import statements of mcl/<module>.py."
    for node in ast.walk(ast.parse((ROOT / 'mcl' / f'{module}.py').read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = '.'.join(filter(None, ['mcl' if node.level else None, node.module]))
            yield from ([f'mcl.{alias.name}' for alias in node.names] if base == 'mcl' else [base])


def test_every_module_is_exported_from_the_notebook_of_its_name():
    assert set(ORDER) == MODULES
    for module, notebook in notebooks().items():
        assert re.fullmatch(rf'\d\d[a-z]?_{module}', notebook)
        text = (ROOT / 'mcl' / f'{module}.py').read_text(encoding='utf-8')
        assert f'File to edit: ../nbs/{notebook}.ipynb' in text


@pytest.mark.parametrize('module', ORDER)
def test_a_module_imports_only_modules_before_it(module):
    own = [name.split('.')[1] for name in imports(module) if name.startswith('mcl.')]
    own = [name for name in own if name != '__version__']
    assert not [name for name in own if ORDER.index(name) >= ORDER.index(module)]


@pytest.mark.parametrize('module', ORDER)
def test_the_library_needs_no_development_tool(module):
    banned = {'fastcore', 'nbdev', 'execnb', 'IPython', 'jupyter', 'nbconvert', 'pytest', 'pickle'}
    assert not banned & {name.split('.')[0] for name in imports(module)}


def test_costs_and_plots_know_nothing_of_training_and_training_nothing_of_plots():
    for module in ('costs', 'results', 'plots'):
        assert not {'mcl.epoch', 'mcl.training'} & set(imports(module)), module
    for module in ('epoch', 'training'):
        assert not {'mcl.costs', 'mcl.results', 'mcl.plots'} & set(imports(module)), module


def test_importing_the_library_touches_no_global_state():
    code = f'''
import matplotlib
import numpy as np
import torch
def state():
    return (np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist(), torch.get_num_threads(),
            dict(matplotlib.rcParams))
before = state()
import {", ".join("mcl." + module for module in ORDER)}
assert before == state()
'''
    subprocess.run([sys.executable, '-c', code], check=True)


def test_the_command_line_loads_what_draws_only_to_draw():
    program = 'import sys, mcl.cli; print({"seaborn", "umap", "matplotlib.pyplot"} & set(sys.modules))'
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
    assert done.stdout == 'set()\n'


HEAVY = ('torch', 'torchvision', 'numba', 'scipy', 'sklearn', 'pandas', 'matplotlib', 'accelerate', 'PIL')
CORE_ONLY = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {absent!r}:
            raise ModuleNotFoundError(f'No module named {{name}}', name=name)

sys.meta_path.insert(0, NotInstalled())
from mcl.cli import main
main(sys.argv[1:])
"""


def python(*words, **named):
    return subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, **named)


@pytest.mark.parametrize('words', [['--help'], ['--version'], ['cluster', '--help'], ['train', '-h']])
def test_help_loads_nothing_heavy(words):
    program = f"""
import atexit, sys
atexit.register(lambda: print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr))
from mcl.cli import main
main({words!r})
"""
    done = python('-c', program)
    assert done.returncode == 0 and done.stderr.strip() == '[]'


def test_clustering_needs_no_package_of_an_extra(tmp_path):
    absent = ('torchvision', 'accelerate', 'sklearn', 'PIL', 'safetensors', 'matplotlib', 'seaborn', 'pandas')
    program = CORE_ONLY.format(absent=absent)
    features = np.random.default_rng(0).normal(size=(60, 8)).astype('f4')
    np.save(tmp_path / 'features.npy', features / np.linalg.norm(features, axis=1, keepdims=True))
    words = ('cluster', tmp_path / 'features.npy', tmp_path / 'labels.npy', '--k1', 10)
    done = python('-c', program, *words)
    assert done.returncode == 0 and (tmp_path / 'labels.npy').exists(), done.stderr
    done = python('-c', program, 'train', '--run-dir', tmp_path / 'run')
    assert done.returncode == 2 and "pip install 'mcl-reid[" in done.stderr.splitlines()[-1]
    assert 'Traceback' not in done.stderr
    for name, extra in (('ImageStore', 'train'), ('JaccardDBSCAN', 'train'), ('from_pretrained', 'train')):
        use = program.replace('from mcl.cli import main\nmain(sys.argv[1:])', f'from mcl import {name}')
        done = python('-c', use)
        assert done.returncode == 1 and f"run `pip install 'mcl-reid[{extra}]'`" in done.stderr, done.stderr


def test_public_names_are_what_the_page_says():
    page = (ROOT / 'API.md').read_text()
    listed = re.findall(r'^\| `(\w+)` \|', page, flags=re.M)
    assert listed == list(mcl.PUBLIC)
    for name in mcl.PUBLIC:
        assert getattr(mcl, name) is not None
    with pytest.raises(AttributeError, match='API.md'):
        getattr(mcl, 'nothing')  # noqa: B009


def functions_of(value):
    "A public function, or the public methods of a public class."
    if inspect.isfunction(value):
        yield inspect.unwrap(value)
    elif inspect.isclass(value):
        for name, method in vars(value).items():
            method = getattr(method, '__func__', getattr(method, 'fget', method))
            own = inspect.isfunction(method) and method.__module__.startswith('mcl.')
            if own and (name == '__init__' or not name.startswith('_')):
                yield method


@pytest.mark.parametrize('name', list(mcl.PUBLIC))
def test_public_signatures_are_annotated(name):
    for function in functions_of(getattr(mcl, name)):
        signature = inspect.signature(inspect.unwrap(function))
        bare = [
            place.name
            for place in signature.parameters.values()
            if place.annotation is place.empty and place.name not in ('self', 'cls')
        ]
        assert not bare, f'{function.__qualname__}: {bare}'
        if function.__name__ != '__init__':
            assert signature.return_annotation is not signature.empty, function.__qualname__


def test_a_type_checker_sees_the_public_names():
    tree = ast.parse((ROOT / 'mcl' / '__init__.py').read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    assert ast.unparse(block.test) == 'TYPE_CHECKING'
    seen = {alias.asname: line.module for line in block.body for alias in line.names}
    assert seen == {name: f'mcl.{module}' for name, module in mcl.PUBLIC.items()}


def test_python_minus_m_is_the_command():
    assert python('-m', 'mcl', '--version').stdout == f'mcl {mcl.__version__}\n'


def test_a_wheel_can_be_built_from_the_source_archive(tmp_path):
    pytest.importorskip('setuptools')
    (tmp_path / 'here').mkdir()
    for name in ('setup.py', 'settings.ini', 'pyproject.toml', 'MANIFEST.in', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, tmp_path / 'here')
    shutil.copytree(ROOT / 'mcl', tmp_path / 'here' / 'mcl', ignore=shutil.ignore_patterns('__pycache__'))
    words = ('setup.py', '-q', 'sdist', '-d', tmp_path)
    done = python('-W', 'ignore', *words, cwd=tmp_path / 'here')
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob('*.tar.gz')
    with tarfile.open(archive) as found:
        held = {name.partition('/')[2] for name in found.getnames()}
    assert {'setup.py', 'settings.ini', 'README.md', 'LICENSE', 'mcl/py.typed'} <= held
    assert {f'mcl/{module}.py' for module in MODULES} <= held


def test_every_requirement_has_a_floor():
    settings = configparser.ConfigParser(delimiters=['='])
    settings.read(ROOT / 'settings.ini')
    for requirement in settings['DEFAULT']['requirements'].split():
        assert '>=' in requirement, requirement


def test_no_cell_is_switched_off_and_no_stored_output_is_an_error():
    import nbformat
    for path in (ROOT / 'nbs').glob('*.ipynb'):
        for cell in nbformat.read(path, as_version=4).cells:
            assert 'eval: false' not in cell.source, path.name
            assert not [o for o in cell.get('outputs', []) if o.output_type == 'error'], path.name


def test_clustering_leaves_the_number_of_threads_alone():
    program = '''
import numpy
import torch
from mcl.clustering import cluster
cluster(numpy.eye(8, dtype="f"), 4, 2, check=False)
print(torch.get_num_threads())
'''
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ['1'], done
