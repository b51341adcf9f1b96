"""The notebooks as a book: how each begins, what it shows, where it leads, and the numbers the project aims at.

Only the stored files are read; nothing is run. `pytest -s tests/test_notebooks.py` prints the table of numbers.
"""
import ast
import json
import re
from functools import cache
from pathlib import Path

import pytest

NBS = Path(__file__).resolve().parent.parent / 'nbs'
NAMES = sorted((path.stem for path in NBS.glob('*.ipynb')), key=lambda name: (name != 'index', name))   # reading order
IMAGES = ('image/png', 'image/jpeg', 'image/svg+xml')
every_notebook = pytest.mark.parametrize('name', NAMES)


# --- reading ---------------------------------------------------------------------------------------------------------

@cache
def cells(name):
    return json.loads((NBS / f'{name}.ipynb').read_text(encoding='utf-8'))['cells']


def source(cell):
    return ''.join(cell['source'])


def directives(cell):
    return dict(re.findall(r'^#\|\s*([\w-]+):?[ \t]*(.*)$', source(cell), flags=re.M)) if cell['cell_type'] == 'code' else {}


def exported(cell):
    return bool({'export', 'exporti', 'exports'} & set(directives(cell)))


def is_library(name):
    return any('default_exp' in directives(cell) for cell in cells(name))


def of_kind(name, kind):
    return [cell for cell in cells(name) if cell['cell_type'] == kind]


def data_of(cell):
    "The stored results of a cell: a dictionary from MIME type to text, one for each output."
    return [{kind: ''.join(value) if isinstance(value, list) else str(value) for kind, value in output.get('data', {}).items()}
            for output in cell.get('outputs', [])]


def has_picture(cell):
    if cell['cell_type'] == 'markdown': return bool(re.search(r'!\[[^\]]+\]\(', source(cell)))
    return any(kind in data for data in data_of(cell) for kind in IMAGES)


def prose(text):
    "Markdown without code, formulas and folded solutions' code, where brackets and # mean something else."
    text = re.sub(r'^[ \t]*(```|~~~).*?^[ \t]*\1', '', text, flags=re.S | re.M)
    return re.sub(r'\$\$.*?\$\$|`[^`\n]*`|(?<!\\)\$[^$\n]+\$', '', text, flags=re.S)


def links(text):
    "Targets of links and pictures that lie in this project, without the part after #."
    found = re.findall(r'\]\(\s*<?([^)>\s#]+)', prose(text))
    return [target for target in found if not re.match(r'[a-z][a-z0-9+.-]*:|//', target)]


def statements(cell):
    return list(ast.walk(ast.parse(source(cell))))


# --- beginning and end -----------------------------------------------------------------------------------------------

@every_notebook
def test_it_opens_with_a_title_and_one_sentence(name):
    lines = [line for line in source(cells(name)[0]).splitlines() if line.strip()]
    assert cells(name)[0]['cell_type'] == 'markdown' and re.match(r'# \S', lines[0])
    assert len(lines) > 1 and re.match(r'> \S', lines[1]), 'the sentence under the title becomes the docstring of the module'


@every_notebook
def test_a_question_and_a_picture_come_first(name):
    places = [i for i, cell in enumerate(cells(name)) if exported(cell)]
    opening = cells(name)[:places[1]] if len(places) > 1 else cells(name)
    assert any('?' in prose(source(cell)) for cell in opening if cell['cell_type'] == 'markdown'), 'no question before the second exported cell'
    assert any(map(has_picture, opening)), 'no stored picture before the second exported cell'


@every_notebook
def test_it_ends_with_the_way_on(name):
    place = NAMES.index(name)
    beside = [f'{other}.ipynb' for other in NAMES[max(place - 1, 0):place + 2] if other != name]
    if name == 'index': beside = [f'{other}.ipynb' for other in NAMES[1:]]   # the front door leads to every room
    text = '\n'.join(map(source, of_kind(name, 'markdown') if name == 'index' else of_kind(name, 'markdown')[-1:]))
    assert name == 'index' or re.search(r'where to go next|^next:', text, flags=re.I | re.M)
    missing = [target for target in beside if target not in links(text)]
    assert not missing, f'no link to {", ".join(missing)}: write [{missing[0][:-6]}]({missing[0]})'


# --- text ------------------------------------------------------------------------------------------------------------

@every_notebook
def test_headings_do_not_jump(name):
    levels = [len(marks) for cell in of_kind(name, 'markdown') for marks in re.findall(r'^(#{1,6}) ', prose(source(cell)), flags=re.M)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(below <= above + 1 for above, below in zip(levels, levels[1:]))


@every_notebook
def test_links_lead_somewhere(name):
    shown = [data.get('text/markdown', '') for cell in of_kind(name, 'code') for data in data_of(cell)]
    targets = {target for text in [*map(source, of_kind(name, 'markdown')), *shown] for target in links(text)}
    assert not [target for target in targets if not (NBS / target).exists()]


@every_notebook
def test_solutions_are_folded_and_run(name):
    text = '\n'.join(map(source, of_kind(name, 'markdown')))
    folded = re.findall(r'<details>(.*?)</details>', text, flags=re.S)
    assert text.count('<details>') == text.count('</details>') == len(folded) == text.count('<summary>')
    code = '\n'.join(map(source, of_kind(name, 'code')))
    for solution in folded:
        assert re.match(r'\s*<summary>[^<]+</summary>\n\n', solution), 'markdown inside needs an empty line after the summary'
        stale = [block for block in re.findall(r'```python\n(.*?)```', solution, flags=re.S) if block.strip() not in code]
        assert not stale, f'no cell runs this solution: {stale[0]}'


# --- stored outputs --------------------------------------------------------------------------------------------------

@every_notebook
def test_every_stored_picture_has_words(name):
    silent = [source(cell)[:80] for cell in of_kind(name, 'code') if has_picture(cell) and len(directives(cell).get('fig-alt', '')) < 20]
    assert not silent, 'add a line `#| fig-alt: what the picture shows`'


@every_notebook
def test_outputs_hold_no_complaint_and_no_path_of_a_machine(name):
    outputs = [output for cell in of_kind(name, 'code') for output in cell.get('outputs', [])]
    assert not [output for output in outputs if output['output_type'] == 'error' or output.get('name') == 'stderr']
    texts = [''.join(output.get('text', '')) for output in outputs]
    texts += [text for cell in of_kind(name, 'code') for data in data_of(cell) for kind, text in data.items() if kind not in ('image/png', 'image/jpeg')]
    found = [hit for text in texts for hit in re.findall(r'(?<![\w.])/(?:tmp|work|home|root|Users)/[^\s"\'<]*', text)]
    assert not found


@every_notebook
def test_the_file_is_small(name):
    assert (NBS / f'{name}.ipynb').stat().st_size < 1_000_000


# --- numbers ---------------------------------------------------------------------------------------------------------

# Other projects, measured from their own notebooks: lines, tests, markdown per code cell, stored pictures.
ANCHORS = {
    'fastai miniai': (8.9, 0.2, 0.21, 264),
    'fastcore': (8.0, 2.3, 0.43, 5),
    'nbdev': (11.7, 1.2, 0.39, 0),
    'self_supervised': (26.8, 0.5, 0.55, 8),
    'statsforecast tutorials': (None, None, 1.22, 198),
}
# What this project aims at: smallest and largest value of the lines of the longest exported cell, of tests per exported
# cell, and markdown cells per code cell.
AIMS = {'longest': (0, 40), 'tests': (2, 99), 'markdown': (0.8, 99)}
# Notebooks that miss an aim today. An entry may only get better; it goes when the aim is met.
KNOWN = {
    '08_training': {'tests': 1.4},
    '11_cli': {'tests': 0.8},
}


def is_test(node, helpers):
    "An assert, or a statement that calls assert_... or a helper of the notebook that asserts."
    if isinstance(node, ast.Assert): return True
    if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)): return False
    called = ast.unparse(node.value.func).split('.')[-1]
    return called.startswith('assert_') or called in helpers


def count_tests(name):
    "Statements that test, outside of exported cells; a test in a loop, or in a helper, counts once."
    nodes = [node for cell in of_kind(name, 'code') if not exported(cell) for node in statements(cell)]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    helpers = {f.name for f in functions if any(isinstance(n, ast.Assert) or isinstance(n, ast.Raise) and 'AssertionError' in ast.unparse(n) for n in ast.walk(f))}
    return sum(is_test(node, helpers) for node in nodes)


def lines_in(cell):
    "Lines of code and comments; empty lines and directives (#|) are none."
    return sum(bool(line.strip()) and not line.startswith('#|') for line in source(cell).splitlines())


@cache
def numbers(name):
    code, exports = of_kind(name, 'code'), [cell for cell in cells(name) if exported(cell)]
    lines = sum(map(lines_in, exports)) / max(len(exports), 1)
    return dict(exports=len(exports), lines=round(lines, 2), longest=max(map(lines_in, exports), default=0),
                tests=round(count_tests(name) / max(len(exports), 1), 2), markdown=round(len(of_kind(name, 'markdown')) / len(code), 2),
                pictures=sum(map(has_picture, cells(name))))


LIBRARY = [name for name in NAMES if is_library(name)]


@pytest.mark.parametrize('name', LIBRARY)
def test_numbers_meet_the_aim_or_do_not_get_worse(name):
    for what, (low, high) in AIMS.items():
        value, known = numbers(name)[what], KNOWN.get(name, {}).get(what)
        if known is None: assert low <= value <= high, f'{what} is {value}; the aim is {low} to {high}'
        else: assert min(low, known) <= value <= max(high, known), f'{what} is {value}; it was {known} and may only get better'


@pytest.mark.parametrize('name', NAMES)
def test_folded_code_is_folded_in_jupyterlab_too(name):
    cells = json.loads((NBS / f'{name}.ipynb').read_text(encoding='utf-8'))['cells']
    folded = [c for c in cells if c['cell_type'] == 'code' and any(line.replace(' ', '') == '#|code-fold:true' for line in ''.join(c['source']).splitlines())]
    shown = [''.join(c['source'])[:80] for c in folded if not c['metadata'].get('jupyter', {}).get('source_hidden')]
    assert not shown, 'collapse these cells in JupyterLab (View, Collapse Selected Code) and save: the picture comes first'


def test_no_progress_bar_is_stored():
    stored = [path.name for path in NBS.glob('*.ipynb') if re.search('widget-(view|state)', path.read_text(encoding='utf-8'))]
    assert not stored, 'outputs hold widgets, which are empty without a kernel: pass progress=False'


def test_no_exception_outlives_its_reason():
    met = [(name, what) for name, known in KNOWN.items() for what in known if AIMS[what][0] <= numbers(name)[what] <= AIMS[what][1]]
    assert not met, 'the aim is met: delete these entries of KNOWN'


def test_table():
    row = '{:26}{:>8}{:>16}{:>9}{:>16}{:>20}{:>10}'.format
    shown = lambda value: '-' if value is None else value
    print('\n' + row('', 'exported', 'lines per cell', 'longest', 'tests per cell', 'markdown per code', 'pictures'))
    for name in NAMES:
        n = numbers(name)
        missed = [what for what, (low, high) in AIMS.items() if name in LIBRARY and not low <= n[what] <= high]
        own = (n['exports'], n['lines'], n['longest'], n['tests']) if n['exports'] else ('-',) * 4
        print(row(name, *own, n['markdown'], n['pictures']) + (f'   misses {", ".join(missed)}' if missed else ''))
    total = [numbers(name) for name in LIBRARY]
    cells_in_all = sum(n['exports'] for n in total)
    mean = lambda what: round(sum(n[what] * n['exports'] for n in total) / cells_in_all, 2)
    ratio = sum(len(of_kind(name, 'markdown')) for name in LIBRARY) / sum(len(of_kind(name, 'code')) for name in LIBRARY)
    print(row('all library notebooks', cells_in_all, mean('lines'), max(n['longest'] for n in total), mean('tests'), round(ratio, 2), sum(n['pictures'] for n in total)))
    print(row('aim', '', '< 10', '<= 40', '>= 2', '>= 0.8', ''))
    for anchor, (lines, tests, markdown, pictures) in ANCHORS.items():
        print(row(anchor, '', shown(lines), '', shown(tests), shown(markdown), shown(pictures)))
    assert total and all(n['exports'] for n in total)
