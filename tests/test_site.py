"""The web site, built into a temporary folder and read with html.parser: links, headings, search, colours."""
import ast
import importlib.util
import json
import re
import subprocess
import sys
from collections import defaultdict
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip('latex2mathml', reason='the site needs the development extra: pip install -e .[dev]')

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = {re.sub(r'^\d+[a-z]?_', '', path.stem): path for path in (ROOT / 'nbs').glob('*.ipynb')}
FILES = sorted((ROOT / 'mcl').glob('[a-z]*.py'))
MODULES = [path.stem for path in FILES if '__all__' in path.read_text(encoding='utf-8')]


class Page(HTMLParser):
    "Tags and visible text of one page."
    def __init__(self, html):
        super().__init__()
        self.tags = []
        self.inside = []                    # blocks that are open
        self.text = defaultdict(str)        # visible text, by the block it stands in
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ('pre', 'code', 'math', 'script', 'title'):
            self.inside.append(tag)

    def handle_endtag(self, tag):
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data):
        self.text[self.inside[0] if self.inside else 'prose'] += data

    def all(self, *names):
        return [attrs for tag, attrs in self.tags if tag in names]

    def ids(self):
        return [attrs['id'] for _, attrs in self.tags if 'id' in attrs]


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    sys.path.insert(0, str(ROOT / 'tools'))
    try:
        path = ROOT / 'tools' / 'site.py'       # not imported by name: `site` is a module of Python itself
        spec = importlib.util.spec_from_file_location('build_site', path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / 'tools'))
    return module.build(ROOT, tmp_path_factory.mktemp('web') / 'site')


@pytest.fixture(scope='module')
def pages(site):
    return {path.name: Page(path.read_text(encoding='utf-8')) for path in site.glob('*.html')}


@pytest.fixture(scope='module')
def records(site):
    text = (site / 'search-index.js').read_text(encoding='utf-8')
    return json.loads(text.removeprefix('const searchIndex = ').rstrip(';\n'))


def is_elsewhere(url):
    return bool(urlsplit(url).scheme or urlsplit(url).netloc)


# --- links and what is loaded -------------------------------------------------------------------------------

def test_every_notebook_and_module_has_a_page(pages):
    notebooks = {f'{name}.html' for name in NOTEBOOKS}
    assert notebooks | {f'api-{name}.html' for name in MODULES} | {'api.html'} == set(pages)


def test_links_and_anchors_resolve(site, pages):
    broken = []
    for name, page in pages.items():
        for url in (attrs['href'] for attrs in page.all('a') if not is_elsewhere(attrs['href'])):
            parts = urlsplit(url)
            target = parts.path or name
            found = (site / target).is_file()
            if parts.fragment:
                found = found and unquote(parts.fragment) in pages[target].ids()
            if not found:
                broken.append(f'{name}: {url}')
    assert not broken


def test_nothing_is_loaded_from_another_host(site, pages):
    for name, page in pages.items():
        tags = page.all('img', 'script', 'link', 'iframe', 'source', 'video', 'object', 'embed')
        loaded = [attrs.get('src') or attrs.get('href') or attrs.get('data', '') for attrs in tags]
        assert not [url for url in loaded if is_elsewhere(url) and url != 'data:,'], name
        assert not [url for url in loaded if not is_elsewhere(url) and not (site / url).is_file()], name
        assert 'style' not in dict(page.tags), name
    assert not re.search(r'url\(|@import', (site / 'style.css').read_text(encoding='utf-8'))
    assert not re.search(r'https?://|fetch\(|import\(', (site / 'site.js').read_text(encoding='utf-8'))


def test_notebooks_are_joined_in_reading_order(pages):
    order = sorted(NOTEBOOKS, key=lambda name: (name != 'index', NOTEBOOKS[name].name))
    for before, after in zip(order, order[1:]):
        assert {'rel': 'next', 'href': f'{after}.html'} in pages[f'{before}.html'].all('a')
        assert {'rel': 'prev', 'href': f'{before}.html'} in pages[f'{after}.html'].all('a')


# --- for everybody ------------------------------------------------------------------------------------------

def test_every_picture_has_words(pages):
    pictures = [(name, attrs) for name, page in pages.items() for attrs in page.all('img')]
    silent = [f'{name}: {attrs["src"]}' for name, attrs in pictures if len(attrs.get('alt', '').strip()) < 10]
    assert not silent, 'give the cell a line `#| fig-alt: what the picture shows`'


def test_headings_one_title_no_level_skipped(pages):
    for name, page in pages.items():
        levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch('h[1-6]', tag)]
        assert levels[0] == 1 and levels.count(1) == 1, name
        assert all(below <= above + 1 for above, below in zip(levels, levels[1:])), name


def test_landmarks_language_and_unique_ids(pages):
    for name, page in pages.items():
        assert len(page.all('main')) == len(page.all('header')) == 1, name
        assert page.all('html')[0]['lang'] == 'en', name
        assert all(attrs.get('aria-label') for attrs in page.all('nav')), name
        first = page.all('a')[0]
        assert first['class'] == 'skip' and first['href'] == '#site-main', name
        viewport = [attrs['content'] for attrs in page.all('meta') if attrs.get('name') == 'viewport']
        assert 'width=device-width' in viewport[0], name
        assert len(page.ids()) == len(set(page.ids())), name


def luminance(colour):
    "Relative luminance of #rrggbb, as WCAG 2 defines it."
    parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear))


def contrast(a, b):
    low, high = sorted(map(luminance, (a, b)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_of_text_and_code_in_both_themes(site):
    assert round(contrast('#000000', '#ffffff')) == 21 and contrast('#777777', '#777777') == 1
    css = (site / 'style.css').read_text(encoding='utf-8')
    pairs = re.findall(r'--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)', css)
    colours = {name: pair for name, *pair in pairs}
    inks = set(colours) - {'page', 'raised', 'line'}
    assert {'text', 'quiet', 'link', 'keyword', 'string', 'comment'} <= inks
    assert set(re.findall(r'[{; ]color: var\(--([\w-]+)\)', css)) <= inks
    for ink, paper, theme in product(inks, ('page', 'raised'), (0, 1)):
        assert contrast(colours[ink][theme], colours[paper][theme]) >= 4.5, (ink, paper, theme)


# --- content ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('module', MODULES)
def test_every_public_name_has_an_entry(module, pages):
    tree = ast.parse((ROOT / 'mcl' / f'{module}.py').read_text(encoding='utf-8'))
    assignments = [node for node in tree.body if isinstance(node, ast.Assign)]
    public = [node.value for node in assignments if ast.unparse(node.targets[0]) == '__all__']
    assert not set(ast.literal_eval(public[0])) - set(pages[f'api-{module}.html'].ids())


def test_argument_comments_are_in_the_reference(site):
    html = re.sub(r'<[^>]+>', ' ', (site / 'api-sampling.html').read_text(encoding='utf-8'))
    for comment in ('of the shuffling', 'N index arrays (int64, increasing), a partition'):
        assert comment in html


def test_angle_brackets_in_docstrings_are_text(pages):
    assert 'pedworld-<preset>' in pages['api-data.html'].text['prose']


def test_prose_and_code_lead_to_the_reference(site):
    html = (site / 'sampling.html').read_text(encoding='utf-8')
    assert '<a class="api" href="api-sampling.html#split_subsets"><code>split_subsets</code></a>' in html
    assert '<a class="api" href="api-sampling.html#split_subsets">split_subsets</a></span>' in html


def test_directives_do_not_show(pages):
    for name, page in pages.items():
        for kind in ('prose', 'pre', 'code'):
            assert not re.search(r'^#\s*\|', page.text[kind], flags=re.M), name


def cells_with(directive):
    for name, path in NOTEBOOKS.items():
        for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
            source = ''.join(cell['source'])
            if cell['cell_type'] == 'code' and re.search(rf'^#\|\s*{directive}\s*$', source, flags=re.M):
                lines = [line for line in source.splitlines() if line.strip() and not line.startswith('#|')]
                yield f'{name}.html', lines


def test_hidden_cells_are_left_out_and_long_code_is_folded(pages):
    hidden = list(cells_with('hide'))
    assert hidden
    for name, lines in hidden:
        assert lines[0] not in pages[name].text['pre'].splitlines(), name
    for name in {name for name, _ in cells_with('code-fold: true')} - {'index.html'}:
        assert {'class': 'fold'} in pages[name].all('details'), name


def test_formulas_are_mathml(pages):
    assert sum(len(page.all('math')) for page in pages.values()) > 200
    for name, page in pages.items():
        assert '$' not in page.text['prose'], name
        assert '\\' not in page.text['math'], name


def test_search_index_finds_sections(records, pages):
    texts = {record['url']: f'{record["heading"]} {record["text"]}'.lower() for record in records}
    found = {url.partition('#')[0] for url, text in texts.items() if 'meta-prototype' in text}
    assert {'prototypes.html', 'index.html'} <= found
    assert 'api-losses.html#cluster_contrast_loss' in texts
    for record in records:
        page, _, anchor = record['url'].partition('#')
        assert anchor in pages[page].ids() and record['heading'], record['url']


def test_a_folder_with_other_things_is_not_replaced(tmp_path):
    (tmp_path / 'thesis.txt').write_text('years of work')
    command = [sys.executable, ROOT / 'tools' / 'site.py', '--out', tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert 'Traceback' not in done.stderr and str(tmp_path) in done.stderr
    assert (tmp_path / 'thesis.txt').read_text() == 'years of work'
