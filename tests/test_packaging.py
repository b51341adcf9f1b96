"""What a user of the installed package gets, and what they must not need."""
import ast
import configparser
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ORDER = 'pedworld data models sampling clustering prototypes losses evaluation training costs plots cli'.split()


def imports(module):
    "Modules named in import statements of mcl/<module>.py."
    for node in ast.walk(ast.parse((ROOT / 'mcl' / f'{module}.py').read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = '.'.join(filter(None, ['mcl' if node.level else None, node.module]))
            yield from ([f'mcl.{alias.name}' for alias in node.names] if base == 'mcl' else [base])


@pytest.mark.parametrize('module', ORDER)
def test_a_module_imports_only_modules_before_it(module):
    own = [name.split('.')[1] for name in imports(module) if name.startswith('mcl.')]
    assert not [name for name in own if ORDER.index(name) >= ORDER.index(module)]


@pytest.mark.parametrize('module', ORDER)
def test_the_library_needs_no_development_tool(module):
    banned = {'fastcore', 'nbdev', 'execnb', 'IPython', 'jupyter', 'nbconvert', 'pytest', 'pickle'}
    assert not banned & {name.split('.')[0] for name in imports(module)}


def test_costs_and_plots_know_nothing_of_training_and_training_nothing_of_plots():
    assert 'mcl.training' not in set(imports('costs')) | set(imports('plots'))
    assert not {'mcl.plots', 'mcl.costs'} & set(imports('training'))


def test_every_module_of_the_library_is_exported_from_a_notebook():
    for module in ORDER:
        notebooks = list((ROOT / 'nbs').glob(f'[0-9][0-9]_{module}.ipynb'))
        assert len(notebooks) == 1
        assert f'File to edit: ../nbs/{notebooks[0].name}' in (ROOT / 'mcl' / f'{module}.py').read_text()


def test_importing_the_library_touches_no_global_state():
    code = ('import numpy as np, torch, matplotlib;'
            'before = (np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist(), dict(matplotlib.rcParams));'
            f'import {", ".join("mcl." + m for m in ORDER)};'
            'after = (np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist(), dict(matplotlib.rcParams));'
            'assert before == after')
    subprocess.run([sys.executable, '-c', code], check=True)


def test_the_command_line_loads_what_draws_only_to_draw():
    program = 'import sys, mcl.cli; print({"seaborn", "umap", "matplotlib.pyplot"} & set(sys.modules))'
    assert subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True).stdout == 'set()\n'


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
    program = 'import numpy, torch; from mcl.clustering import cluster; cluster(numpy.eye(8, dtype="f"), 4, 2, check=False); print(torch.get_num_threads())'
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    assert done.stdout.split() == ['1'], done
