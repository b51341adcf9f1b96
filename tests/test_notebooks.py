"""The notebooks as a book: how each begins, what it shows, where it leads, and how large its pieces are.

Only the stored files are read; nothing is run. `pytest -s tests/test_notebooks.py` prints a table of
sizes.
"""
import ast
import json
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / 'nbs'
NAMES = sorted((path.stem for path in NBS.glob('*.ipynb')), key=lambda name: (name != 'index', name))
IMAGES = ('image/png', 'image/jpeg', 'image/svg+xml')
every_notebook = pytest.mark.parametrize('name', NAMES)   # in reading order: index, then by name


# --- reading ------------------------------------------------------------------------------------------------

@cache
def cells(name):
    return json.loads((NBS / f'{name}.ipynb').read_text(encoding='utf-8'))['cells']


def source(cell):
    return ''.join(cell['source'])


def directives(cell):
    "The lines `#| key: value` of a code cell."
    if cell['cell_type'] != 'code':
        return {}
    return dict(re.findall(r'^#\|\s*([\w-]+):?[ \t]*(.*)$', source(cell), flags=re.M))


def plain(cell):
    "The code of a cell without comments and layout; cells with commands of the shell are none."
    try:
        return ast.unparse(ast.parse(source(cell)))
    except SyntaxError:
        return ''


def is_exported(cell):
    return bool({'export', 'exporti', 'exports'} & set(directives(cell)))


def module_of(name):
    "The module that a notebook exports, or None."
    for cell in cells(name):
        if 'default_exp' in directives(cell):
            return directives(cell)['default_exp'].strip()
    return None


def of_kind(name, kind):
    return [cell for cell in cells(name) if cell['cell_type'] == kind]


def exported(name):
    return [cell for cell in cells(name) if is_exported(cell)]


def data_of(cell):
    "The stored results of a cell: a dictionary from MIME type to text, one for each output."
    def as_text(value):
        return ''.join(value) if isinstance(value, list) else str(value)
    outputs = [output.get('data', {}) for output in cell.get('outputs', [])]
    return [{kind: as_text(value) for kind, value in data.items()} for data in outputs]


def has_picture(cell):
    if cell['cell_type'] == 'markdown':
        return bool(re.search(r'!\[[^\]]+\]\(', source(cell)))
    return any(kind in data for data in data_of(cell) for kind in IMAGES)


def prose(text):
    "Markdown without code and formulas, where brackets and # mean something else."
    text = re.sub(r'^[ \t]*(```|~~~).*?^[ \t]*\1', '', text, flags=re.S | re.M)
    return re.sub(r'\$\$.*?\$\$|`[^`\n]*`|(?<!\\)\$[^$\n]+\$', '', text, flags=re.S)


def links(text):
    "Targets of links and pictures that lie in this project, without the part after #."
    found = re.findall(r'\]\(\s*<?([^)>\s#]+)', prose(text))
    return [target for target in found if not re.match(r'[a-z][a-z0-9+.-]*:|//', target)]


LIBRARY = [name for name in NAMES if module_of(name)]
every_library_notebook = pytest.mark.parametrize('name', LIBRARY)


# --- beginning and end --------------------------------------------------------------------------------------

@every_notebook
def test_it_opens_with_a_title_and_one_sentence(name):
    lines = [line for line in source(cells(name)[0]).splitlines() if line.strip()]
    assert cells(name)[0]['cell_type'] == 'markdown' and re.match(r'# \S', lines[0])
    assert len(lines) > 1 and re.match(r'> \S', lines[1]), 'the sentence becomes the docstring of the module'


@every_notebook
def test_a_question_and_a_picture_come_first(name):
    places = [place for place, cell in enumerate(cells(name)) if is_exported(cell)]
    opening = cells(name)[:places[1]] if len(places) > 1 else cells(name)
    asked = [cell for cell in opening if cell['cell_type'] == 'markdown' and '?' in prose(source(cell))]
    assert asked, 'no question before the second exported cell'
    assert any(map(has_picture, opening)), 'no stored picture before the second exported cell'


@every_library_notebook
def test_a_notebook_defines_before_it_uses(name):
    own = rf'^\s*(from|import) mcl\.{module_of(name)}\b'
    borrowed = [source(cell)[:80] for cell in of_kind(name, 'code') if re.search(own, source(cell), re.M)]
    assert not borrowed, 'these cells import the module that this notebook makes'


@every_notebook
def test_it_ends_with_the_way_on(name):
    texts = list(map(source, of_kind(name, 'markdown')))
    if name == 'index':   # the front door leads to every room, in a table that a cell makes
        texts += [data.get('text/markdown', '') for cell in of_kind(name, 'code') for data in data_of(cell)]
        text, beside = '\n'.join(texts), NAMES[1:]
    else:
        place = NAMES.index(name)
        text, beside = texts[-1], [other for other in NAMES[place - 1:place + 2] if other != name]
        assert re.search(r'where to go next', text, flags=re.I)
    missing = [other for other in beside if f'{other}.ipynb' not in links(text)]
    assert not missing, f'no link to {", ".join(missing)}: write [{missing[0]}]({missing[0]}.ipynb)'


# --- text ---------------------------------------------------------------------------------------------------

@every_notebook
def test_headings_do_not_jump(name):
    texts = [prose(source(cell)) for cell in of_kind(name, 'markdown')]
    levels = [len(marks) for text in texts for marks in re.findall(r'^(#{1,6}) ', text, flags=re.M)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(below <= above + 1 for above, below in zip(levels, levels[1:]))


@every_notebook
def test_links_lead_somewhere(name):
    shown = [data.get('text/markdown', '') for cell in of_kind(name, 'code') for data in data_of(cell)]
    texts = [*map(source, of_kind(name, 'markdown')), *shown]
    targets = {target for text in texts for target in links(text)}
    assert not [target for target in targets if not (NBS / target).exists()]


@every_notebook
def test_solutions_are_folded_and_run(name):
    text = '\n'.join(map(source, of_kind(name, 'markdown')))
    folded = re.findall(r'<details>(.*?)</details>', text, flags=re.S)
    assert text.count('<details>') == text.count('</details>') == len(folded) == text.count('<summary>')
    code = '\n'.join(map(plain, of_kind(name, 'code')))
    for solution in folded:
        opening = r'\s*<summary>[^<]+</summary>\n\n'
        assert re.match(opening, solution), 'markdown inside needs an empty line after the summary'
        blocks = re.findall(r'```python\n(.*?)```', solution, flags=re.S)
        stale = [block for block in blocks if ast.unparse(ast.parse(block)) not in code]
        assert not stale, f'no cell runs this solution: {stale[0]}'


# --- stored outputs -----------------------------------------------------------------------------------------

@every_notebook
def test_every_stored_picture_has_words(name):
    drawn = [cell for cell in of_kind(name, 'code') if has_picture(cell)]
    silent = [source(cell)[:80] for cell in drawn if len(directives(cell).get('fig-alt', '')) < 20]
    assert not silent, 'add a line `#| fig-alt: what the picture shows`'


@every_notebook
def test_outputs_hold_no_complaint_and_no_path_of_a_machine(name):
    outputs = [output for cell in of_kind(name, 'code') for output in cell.get('outputs', [])]
    bad = [o for o in outputs if o['output_type'] == 'error' or o.get('name') == 'stderr']
    assert not bad
    texts = [''.join(output.get('text', '')) for output in outputs]
    for cell in of_kind(name, 'code'):
        for data in data_of(cell):
            texts += [text for kind, text in data.items() if kind not in ('image/png', 'image/jpeg')]
    path = r'(?<![\w.])/(?:tmp|work|home|root|Users)/[^\s"\'<]*'
    assert not [hit for text in texts for hit in re.findall(path, text)]


@every_notebook
def test_no_progress_bar_is_stored(name):
    text = (NBS / f'{name}.ipynb').read_text(encoding='utf-8')
    found = re.search('widget-(view|state)', text)
    assert not found, 'widgets are empty without a kernel: pass progress=False'


@every_notebook
def test_the_file_is_small(name):
    assert (NBS / f'{name}.ipynb').stat().st_size < 1_000_000


@every_notebook
def test_folded_code_is_folded_in_jupyterlab_too(name):
    folded = [cell for cell in of_kind(name, 'code') if directives(cell).get('code-fold') == 'true']
    open_cells = [cell for cell in folded if not cell['metadata'].get('jupyter', {}).get('source_hidden')]
    assert not open_cells, 'collapse these cells in JupyterLab (View, Collapse Selected Code) and save'


# --- size ---------------------------------------------------------------------------------------------------

COLUMNS, MODULE = 110, 400   # longest line, lines of a module


def lines_in(cell):
    "Lines of code and comments; empty lines and directives (#|) are none."
    return [line for line in source(cell).splitlines() if line.strip() and not line.startswith('#|')]


def is_test(node, helpers):
    "An assert, or a call of test_..., of assert_..., or of a helper of the notebook that asserts."
    if isinstance(node, ast.Assert):
        return True
    if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        return False
    called = ast.unparse(node.value.func).split('.')[-1]
    return called.startswith(('assert_', 'test_')) or called in helpers


def count_tests(name):
    "Statements that test, outside of exported cells; a test in a loop, or in a helper, counts once."
    code = [source(cell) for cell in of_kind(name, 'code') if not is_exported(cell)]
    nodes = [node for text in code for node in ast.walk(ast.parse(re.sub(r'^[%!].*', '', text, flags=re.M)))]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    helpers = {f.name for f in functions if any(isinstance(node, ast.Assert) for node in ast.walk(f))}
    return sum(is_test(node, helpers) for node in nodes)


def module_lines(name):
    return (ROOT / 'mcl' / f'{module_of(name)}.py').read_text(encoding='utf-8').splitlines()


@every_library_notebook
def test_exported_lines_fit_on_a_screen(name):
    long = [line for cell in exported(name) for line in source(cell).splitlines() if len(line) > COLUMNS]
    assert not long, f'{len(long)} exported lines of more than {COLUMNS} columns, the first: {long[0]}'


@every_library_notebook
def test_a_module_can_be_read_in_one_sitting(name):
    lines = len(module_lines(name))
    assert lines <= MODULE, f'{lines} lines'


def test_half_of_the_modules_are_short():
    sizes = [len(module_lines(name)) for name in LIBRARY]
    short = sum(size < MODULE // 2 for size in sizes)
    assert 2 * short >= len(sizes), f'{short} of {len(sizes)} modules are below {MODULE // 2} lines'


@every_library_notebook
def test_a_library_notebook_tests_and_draws(name):
    assert count_tests(name), 'no test'
    assert any(map(has_picture, cells(name))), 'no picture'


def test_table():
    "What `pytest -s` shows of every notebook that exports a module."
    row = '{:26}{:>8}{:>10}{:>10}{:>10}{:>8}{:>10}'.format
    print('\n' + row('', 'module', 'cells', 'longest', 'columns', 'tests', 'pictures'))
    for name in LIBRARY:
        sizes = [len(lines_in(cell)) for cell in exported(name)]
        widest = max(len(line) for cell in exported(name) for line in source(cell).splitlines())
        pictures = sum(map(has_picture, cells(name)))
        print(row(name, len(module_lines(name)), len(sizes), max(sizes), widest, count_tests(name), pictures))
    assert LIBRARY
