"""The notebooks as a static web site: pages, API reference, search, light and dark.

Nothing is loaded from another host.

    python tools/site.py                 writes _site/ from the notebooks and their stored outputs
    python tools/site.py --svg           runs the notebooks first and draws every figure as SVG (minutes)
    python tools/site.py --out folder    writes elsewhere

Addresses are those of nbdev: nbs/06_clustering.ipynb becomes clustering.html, and the cell that defines
`cluster` has the anchor #cluster. The reference of module clustering is api-clustering.html. It is read
from
the source, never imported.
"""
import argparse
import ast
import base64
import configparser
import json
import re
import shutil
import sys
import tempfile
from functools import partial
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import jinja2
import mistune
import nbformat
from latex2mathml.converter import convert as mathml
from markupsafe import Markup
from nbconvert.filters import ansi2html
from nbconvert.filters.markdown_mistune import MarkdownWithMath
from PIL import Image
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import BashLexer, PythonLexer, TextLexer
from reference import read_library

ROOT = Path(__file__).resolve().parent.parent
PARTS = Path(__file__).resolve().with_suffix('')      # templates, style sheet and script
FORMATTER = HtmlFormatter(nowrap=True)
LEXERS = {'python': PythonLexer, 'py': PythonLexer, 'bash': BashLexer, 'sh': BashLexer}
KINDS = ('image/svg+xml', 'image/png', 'image/jpeg', 'text/html', 'text/markdown', 'text/latex',
         'text/plain')   # best first


# --- addresses ----------------------------------------------------------------------------------------------

def reading_order(root: Path) -> list:
    "Notebooks, the index first, then by name: 01_data, 01b_images, 02_models."
    return sorted((root / 'nbs').glob('*.ipynb'), key=lambda path: (path.stem != 'index', path.stem))


def page_name(path) -> str:
    "06_clustering.ipynb and 06b_clustering -> clustering"
    return re.sub(r'^\d+[a-z]?_', '', Path(path).stem)


class Book:
    "All pages, and where things are."
    def __init__(self, root: Path, out: Path):
        self.root, self.out = root, out
        self.settings = configparser.ConfigParser(delimiters=['='])
        self.settings.read(root / 'settings.ini', encoding='utf-8')
        self.settings = self.settings['DEFAULT']
        self.paths = reading_order(root)
        self.library = read_library(root, [page_name(path) for path in self.paths])
        self.search = []
        self.homes = {}     # public name -> the modules that define it
        for module in self.library.values():
            for entry in [e for top in module.entries for e in (top, *top.methods)]:
                self.homes.setdefault(entry.name, []).append(module.name)
        (out / 'pictures').mkdir(parents=True)

    def source_url(self, path, line: int | None = None) -> str:
        place = f'#L{line}' if line else ''
        return f'{self.settings["git_url"]}/blob/{self.settings["branch"]}/{path}{place}'

    def api_url(self, name: str, home: str | None = None) -> str | None:
        """Address of what prose names: cluster, cluster(...), clustering.cluster, MetaPrototypes.annotate,
        or a notebook such as 06_clustering.

        A plain word means a name of the module `home` or one before it: readers have not met later ones, and
        the word may mean something else.
        """
        stem = name.removesuffix('.ipynb')
        if page_name(name) != name and any(path.stem == stem for path in self.paths):
            return page_name(name) + '.html'
        word = re.sub(r'\(.*\)$', '', name).removeprefix('mcl.')
        owner, _, rest = word.rpartition('.')
        if page_name(owner) in self.homes.get(rest, []):
            return f'api-{page_name(owner)}.html#{rest}'
        order = list(self.library)
        near = order[:order.index(home) + 1] if home in order and word.islower() else order
        homes = [module for module in self.homes.get(word, []) if module in near]
        if home in homes:
            homes = [home]
        return f'api-{homes[0]}.html#{word}' if len(homes) == 1 else None

    def target(self, url: str) -> str:
        "Where a link of a notebook leads: a page, a picture (copied), or a file of the repository."
        if re.match(r'[a-z][a-z0-9+.-]*:|//|#', url):
            return url
        path, _, fragment = url.partition('#')
        if path.endswith('.ipynb'):
            return f'{page_name(path)}.html' + (f'#{fragment}' if fragment else '')
        file = (self.root / 'nbs' / path).resolve()
        if file.suffix not in ('.png', '.jpg', '.jpeg', '.svg'):
            return self.source_url(file.relative_to(self.root).as_posix())
        shutil.copy(file, self.out / 'pictures' / file.name)
        return f'pictures/{file.name}'

    def picture(self, url: str, alt: str) -> str:
        "An image that knows its size, so that text does not jump when it arrives."
        size = ''
        if (self.out / url).is_file() and not url.endswith('.svg'):
            with Image.open(self.out / url) as image:
                size = ' width="{}" height="{}"'.format(*image.size)
        return f'<img src="{escape(url)}" alt="{escape(alt)}"{size} loading="lazy">'


# --- text and code ------------------------------------------------------------------------------------------

def code_html(text: str, lexer=PythonLexer) -> str:
    return highlight(text, lexer(stripnl=False), FORMATTER).rstrip('\n')


def math_html(text: str, display: str = 'inline') -> str:
    "MathML of a formula; ValueError for a command that the converter does not know."
    html = mathml(text.strip(), display=display)
    if '\\' in html:
        raise ValueError(f'cannot convert the formula {text!r} to MathML')
    return html


class Text(mistune.HTMLRenderer):
    "Markdown of one page: MathML, links to pages and to the API, headings with JupyterLab's anchors."
    def __init__(self, book: Book, home: str | None = None, escape: bool = False):   # escape: <name> is text
        super().__init__(escape=escape)
        self.book, self.home, self.ids, self.sections = book, home, set(), []

    def heading(self, text, level, **attrs):
        plain = re.sub(r'<[^>]+>', '', text)
        anchor = self.new_id(re.sub(r'\s', '-', plain))
        if level == 2:
            self.sections.append((anchor, Markup(plain)))
        link = f'<a class="anchor" href="#{anchor}" aria-label="Link to this section">#</a>'
        return f'<h{level} id="{anchor}">{text}{link}</h{level}>\n'

    def new_id(self, wanted: str) -> str:
        while wanted in self.ids:
            wanted += '-'
        self.ids.add(wanted)
        return wanted

    def codespan(self, text):
        url = self.book.api_url(text, self.home)
        code = f'<code>{escape(text)}</code>'
        return f'<a class="api" href="{url}">{code}</a>' if url else code

    def link(self, text, url, title=None):
        words = re.sub(r'</?a[^>]*>', '', text)
        return f'<a href="{escape(self.book.target(url))}">{words}</a>'

    def image(self, text, url, title=None):
        return self.book.picture(self.book.target(url), text)

    def block_code(self, code, info=None):
        return f'<pre tabindex="0"><code>{code_html(code, LEXERS.get(info, TextLexer))}</code></pre>\n'

    def inline_math(self, body):
        return math_html(body)

    def block_math(self, body):
        box = 'class="scroll formula" tabindex="0" role="group" aria-label="formula"'
        return f'<span {box}>{math_html(body, "block")}</span>'

    def latex_environment(self, name, body):
        return self.block_math(f'\\begin{{{name}}}{body}\\end{{{name}}}')

    def html(self, markdown: str) -> str:
        return scrollable(MarkdownWithMath(renderer=self).render(markdown))


def scrollable(html: str) -> str:
    "Tables in a box of their own that scrolls, without pandas' style sheets."
    html = re.sub(r'<style.*?</style>', '', html, flags=re.S)
    box = r'<div class="scroll" tabindex="0" role="group" aria-label="table">\1</div>'
    return re.sub(r'(<table.*?</table>)', box, html, flags=re.S)


# --- notebooks ----------------------------------------------------------------------------------------------

def split_directives(source: str) -> tuple:
    "The lines `#| key: value` of a cell as a dictionary, and the rest of the cell."
    options = dict(re.findall(r'^#\s*\|\s*([\w-]+):?[ \t]*(.*)$', source, flags=re.M))
    return options, re.sub(r'^#\s*\|.*\n?', '', source, flags=re.M).strip('\n')


def imported_names(notebook) -> dict:
    "Names that the code cells take from the library -> module; a module itself -> None."
    found = {}
    for cell in notebook.cells:
        if cell.cell_type != 'code' or 'mcl' not in cell.source:
            continue
        for node in ast.walk(ast.parse(re.sub(r'^[%!].*', '', cell.source, flags=re.M))):
            if not isinstance(node, ast.ImportFrom) or (node.module or '').split('.')[0] != 'mcl':
                continue
            module = node.module.partition('.')[2] or None
            found |= {alias.asname or alias.name: module for alias in node.names}
    return found


class Page:
    "One notebook as HTML."
    def __init__(self, book: Book, path: Path, notebook):
        self.book, self.name, self.notebook = book, page_name(path), notebook
        self.module = book.library.get(self.name)
        self.text = Text(book, self.name)
        self.imports = imported_names(notebook)
        self.n_pictures = 0
        self.body = '\n'.join(map(self.cell_html, notebook.cells))
        self.title = re.search(r'^# (.*)', notebook.cells[0].source, flags=re.M)[1].replace('`', '')
        lead = re.search(r'^> (.*)', notebook.cells[0].source, flags=re.M)
        self.lead = re.sub(r'[*`]', '', lead[1]) if lead else ''

    def cell_html(self, cell) -> str:
        if cell.cell_type == 'markdown':
            return self.text.html(cell.source)
        if cell.cell_type != 'code':
            return ''
        options, code = split_directives(cell.source)
        if 'hide' in options or options.get('include') == 'false':
            return ''
        html = ''
        if code and 'hide_input' not in options and options.get('echo') != 'false':
            html += self.code_cell(code, options)
        if 'hide_output' not in options and options.get('output') != 'false':
            html += self.outputs(cell, options)
        return f'<div class="cell">{html}</div>' if html else ''

    def code_cell(self, code: str, options: dict) -> str:
        block = f'<pre tabindex="0"><code>{self.linked(code)}</code></pre>'
        if {'export', 'exports', 'exporti'} & set(options):
            ids = [self.text.new_id(name.lower()) for name in defined_names(code)]
            anchors = ''.join(f'<span id="{id}"></span>' for id in ids)
            return f'{anchors}<div class="export" title="part of mcl.{self.name}">{block}</div>'
        if options.get('code-fold') == 'true':
            summary = f'<summary>{options.get("code-summary", "Code")}</summary>'
            return f'<details class="fold">{summary}{block}</details>'
        return block

    def linked(self, code: str) -> str:
        "Code in colours; calls of the library lead to its reference."
        own = {entry.name for entry in self.module.entries} if self.module else set()

        def link(match):
            owner, name = match[1], match[2]
            module = owner or self.imports.get(name) or (self.name if name in own else None)
            if module in self.book.library:     # the module may have taken the name from an earlier one
                module = self.book.library[module].borrowed.get(name, module)
            known = module in self.book.homes.get(name, []) and (not owner or owner in self.imports)
            start, end = match[0].rsplit(f'{name}</span>', 1)
            address = f'api-{module}.html#{name}'
            return f'{start}<a class="api" href="{address}">{name}</a></span>{end}' if known else match[0]

        dot = r'<span class="o">\.</span>'
        owner = rf'(?:<span class="n">(\w+)</span>{dot})?'
        call = rf'(?<!{dot}){owner}<span class="n">(\w+)</span>(?=<span class="p">\()'
        return re.sub(call, link, code_html(code))

    def outputs(self, cell, options: dict) -> str:
        total = sum(any(kind.startswith('image/') for kind in o.get('data', {})) for o in cell.outputs)
        parts = []
        place = 0
        for output in cell.outputs:
            data = output.get('data', {})
            kind = next((kind for kind in KINDS if kind in data), None)
            if output.output_type == 'stream':
                parts.append(f'<pre tabindex="0">{ansi2html(output.text)}</pre>')
            elif kind and kind.startswith('image/'):
                place += 1
                number = f' ({place} of {total})' if total > 1 else ''
                alt = options.get('fig-alt', '').strip('"\'') + number
                parts.append(f'<figure>{self.stored_picture(kind, data[kind], alt)}</figure>')
            elif kind == 'text/html':
                parts.append(scrollable(data[kind]))
            elif kind == 'text/markdown':
                parts.append(self.text.html(data[kind]))
            elif kind == 'text/latex':
                parts.append(self.text.block_math(data[kind].strip().strip('$')))
            elif kind and not any('widget' in other for other in data):
                parts.append(f'<pre tabindex="0">{escape(data[kind])}</pre>')
        return f'<div class="output">{"".join(parts)}</div>' if parts else ''

    def stored_picture(self, kind: str, data: str, alt: str) -> str:
        self.n_pictures += 1
        suffix = kind.split('/')[1].split('+')[0]
        url = f'pictures/{self.name}-{self.n_pictures}.{suffix}'
        content = data.encode() if kind == 'image/svg+xml' else base64.b64decode(data)
        (self.book.out / url).write_bytes(content)
        return self.book.picture(url, alt)


def defined_names(code: str) -> list:
    "Functions, classes, their methods and constants of a cell, as nbdev's index names them."
    names = []
    for node in ast.parse(code).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.append(node.name)
        if isinstance(node, ast.ClassDef):
            names += [f'{node.name}.{n.name}' for n in node.body if isinstance(n, ast.FunctionDef)]
        if isinstance(node, ast.Assign):
            targets = [n for target in node.targets for n in ast.walk(target)]
            names += [n.id for n in targets if isinstance(n, ast.Name)]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.append(node.target.id)
    return names


def with_vector_figures(path: Path, notebook):
    "The notebook after a run in which every figure is drawn as SVG; the file on disk stays as it is."
    from nbclient import NotebookClient
    setting = "%matplotlib inline\n%config InlineBackend.figure_formats = ['svg']"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(setting))
    NotebookClient(notebook, timeout=1200, resources={'metadata': {'path': str(path.parent)}}).execute()
    del notebook.cells[0]
    return notebook


# --- search -------------------------------------------------------------------------------------------------

class Sections(HTMLParser):
    "The text of a page, cut at its headings; code and tables of numbers are left out."
    def __init__(self, html: str):
        super().__init__()
        self.found, self.in_heading = [], False     # found: [anchor, heading, text]
        self.feed(re.sub(r'<(pre|td)\b.*?</\1>', ' ', html, flags=re.S))

    def handle_starttag(self, tag, attrs):
        if re.fullmatch('h[1-6]', tag):
            self.in_heading = True
            self.found.append([dict(attrs).get('id', ''), '', ''])

    def handle_endtag(self, tag):
        if re.fullmatch('h[1-6]', tag):
            self.in_heading = False

    def handle_data(self, data):
        if self.found:
            self.found[-1][1 if self.in_heading else 2] += data


def search_records(url: str, title: str, html: str) -> list:
    "One record a section: address, title of the page, heading, text."
    def clean(text):
        return re.sub(r'\s+', ' ', text).strip()

    return [{'url': f'{url}#{anchor}', 'page': title, 'heading': clean(heading.removesuffix('#')),
             'text': clean(text)} for anchor, heading, text in Sections(html).found]


# --- all together -------------------------------------------------------------------------------------------

def build(root: Path, out: Path, svg: bool = False) -> Path:
    "Write the site of the project in `root` to `out`. An earlier site is replaced when the new one is whole."
    if out.exists() and any(out.iterdir()) and not (out / 'search-index.js').exists():
        raise FileExistsError(f'{out} holds something else than an earlier site; name an empty folder')
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix='.site-') as folder:
        fresh = Path(folder) / 'site'
        write_site(Book(root, fresh), svg)
        shutil.rmtree(out, ignore_errors=True)
        fresh.rename(out)
    return out


def as_block(text: Text, words: str) -> Markup:
    "Paragraphs of a docstring."
    return Markup(text.html(words))


def as_words(text: Text, words: str) -> Markup:
    "A comment, which stands inside a paragraph or a cell of a table."
    return Markup(re.sub(r'</?p>', '', text.html(words)).strip())


def as_code(code: str) -> Markup:
    return Markup(code_html(code))


def write_site(book: Book, svg: bool) -> None:
    pages = []
    for path in book.paths:
        notebook = nbformat.read(path, as_version=4)
        pages.append(Page(book, path, with_vector_figures(path, notebook) if svg else notebook))
    titles = {page.name: page.title for page in pages}
    loader = jinja2.FileSystemLoader(PARTS)
    templates = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    templates.globals.update(book=book, pages=pages, titles=titles, settings=book.settings)

    def write(name, title, template, **values):
        body = templates.get_template(template).render(**values)
        book.search += search_records(f'{name}.html', title, body)
        html = templates.get_template('page.html').render(name=name, title=title, body=Markup(body), **values)
        (book.out / f'{name}.html').write_text(html, encoding='utf-8')

    for before, page, after in zip([None, *pages], pages, [*pages[1:], None]):
        write(page.name, page.title, 'notebook.html', content=Markup(page.body), sections=page.text.sections,
              lead=page.lead, before=before, after=after)
    for module in book.library.values():
        text = Text(book, module.name, escape=True)
        write(f'api-{module.name}', f'mcl.{module.name}', 'api.html', module=module, lead=module.doc,
              prose=partial(as_block, text), inline=partial(as_words, text), python=as_code)
    write('api', 'Reference', 'modules.html', lead='Every public name of the library, module by module.')
    records = json.dumps(book.search, ensure_ascii=False)
    (book.out / 'search-index.js').write_text(f'const searchIndex = {records};\n', encoding='utf-8')
    for name in ('style.css', 'site.js'):
        shutil.copy(PARTS / name, book.out / name)


def main() -> None:
    parser = argparse.ArgumentParser(description='Build the notebooks as a static web site.')
    parser.add_argument('--out', type=Path, default=ROOT / '_site', help='folder to write (default: _site)')
    parser.add_argument('--svg', action='store_true', help='run the notebooks and draw figures as SVG')
    arguments = parser.parse_args()
    try:
        site = build(ROOT, arguments.out.resolve(), arguments.svg)
    except FileExistsError as error:
        sys.exit(str(error))
    print(f'{len(list(site.glob("*.html")))} pages in {site}')


if __name__ == '__main__':
    main()
