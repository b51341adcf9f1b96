"""What the source of the library says about its public names: signatures, argument comments, docstrings.

Nothing is imported.
"""
import ast
import io
import re
import tokenize
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Entry:
    "One public name (or method) and what its source says about it."
    name: str
    signature: str
    doc: str
    line: int
    source: str
    table: list = field(default_factory=list)      # arguments or fields: (name, annotation, default, meaning)
    methods: list = field(default_factory=list)    # entries of a class
    defined: str = ''                              # page and anchor of the notebook cell


@dataclass
class Module:
    "A module: what it defines, and what it offers that an earlier module defines."
    name: str
    doc: str
    entries: list
    borrowed: dict = field(default_factory=dict)   # name taken from an earlier module -> that module
    offered: list = field(default_factory=list)    # those of them that may be imported from here too


def comments_by_line(source: str) -> dict:
    "Line number -> the comment that ends this line."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip('# ').rstrip() for t in tokens if t.type == tokenize.COMMENT}


def unparse(node) -> str:
    return ast.unparse(node) if node else ''


def argument_rows(node: ast.FunctionDef, comments: dict) -> list:
    """Name, annotation, default and comment of every argument but self, then of the result.

    A comment belongs to the last one of its line."""
    a = node.args
    plain = [*a.posonlyargs, *a.args]
    defaults = [None] * (len(plain) - len(a.defaults)) + a.defaults
    pairs = [*zip(plain, defaults), (a.vararg, None), *zip(a.kwonlyargs, a.kw_defaults), (a.kwarg, None)]
    rows = [[arg.arg, unparse(arg.annotation), unparse(default), (default or arg).end_lineno]
            for arg, default in pairs if arg]
    if node.returns:
        rows.append(['returns', unparse(node.returns), '', node.returns.end_lineno])
    last = {line: place for place, (*_, line) in enumerate(rows)}
    rows = [(name, kind, default, comments.get(line, '') if last[line] == place else '')
            for place, (name, kind, default, line) in enumerate(rows)]
    rows = [row for row in rows if row[0] not in ('self', 'cls')]
    return rows if any(row[3] for row in rows) else []


def field_rows(node: ast.ClassDef, comments: dict) -> list:
    "Name, annotation, default and comment of every annotated field of a class."
    fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
    return [(n.target.id, unparse(n.annotation), unparse(n.value), comments.get(n.end_lineno, ''))
            for n in fields]


def signature(node, name: str) -> str:
    "The head of a function or class on one line, or one argument a line where that is too long."
    if isinstance(node, ast.ClassDef):
        return f'class {name}' + (f'({", ".join(map(unparse, node.bases))})' if node.bases else '')
    if not isinstance(node, ast.FunctionDef):
        return unparse(node)
    returns = f' -> {unparse(node.returns)}' if node.returns else ''
    flat = f'{name}({unparse(node.args)}){returns}'
    if len(flat) <= 90:
        return flat
    parts = re.split(r', (?=[*\w]+(?:[:=]|, |$))', unparse(node.args))
    return f'{name}(\n' + ''.join(f'    {part},\n' for part in parts) + f'){returns}'


def read_entry(node, name: str, source: str, comments: dict) -> Entry:
    "A function, class or constant as an entry; of a class, its documented public methods too."
    first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, 'decorator_list', []))])
    lines = source.splitlines()[first - 1:node.end_lineno]
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        doc = ast.get_docstring(node) or ''
    else:
        doc = comments.get(node.end_lineno, '')
    entry = Entry(name, signature(node, name), doc, node.lineno, '\n'.join(lines))
    if isinstance(node, ast.FunctionDef):
        entry.table = argument_rows(node, comments)
    if isinstance(node, ast.ClassDef):
        functions = [n for n in node.body if isinstance(n, ast.FunctionDef)]
        start = [n for n in functions if n.name == '__init__']
        arguments = [row for n in start for row in argument_rows(n, comments) if row[0] != 'returns']
        entry.table = field_rows(node, comments) + arguments
        if start:
            entry.signature += '\n' + signature(start[0], name)
        whole = [n for n in functions if 'overload' not in map(unparse, n.decorator_list)]
        public = [n for n in whole if not n.name.startswith('_')]
        entry.methods = [read_entry(n, f'{name}.{n.name}', source, comments) for n in public]
    return entry


def read_module(path: Path, defined: dict) -> Module:
    "A module as its source tells it; `defined` maps full names to notebook cells (nbdev's _modidx)."
    source = path.read_text(encoding='utf-8')
    tree = ast.parse(source)
    comments = comments_by_line(source)
    found, borrowed, public, offered = {}, {}, [], []
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.level and node.module:
            borrowed |= {alias.asname or alias.name: node.module for alias in node.names}
            offered += [alias.name for alias in node.names if alias.asname == alias.name]   # `import x as x`
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = node
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
            if names == ['__all__']:
                public = ast.literal_eval(node.value)
            else:
                found.update(dict.fromkeys(names, node))
    entries = [read_entry(found[name], name, source, comments) for name in public if name in found]
    for entry in [e for top in entries for e in (top, *top.methods)]:
        here = f'{path.stem}.html#{entry.name.lower()}'
        entry.defined = defined.get(f'mcl.{path.stem}.{entry.name}', (here,))[0]
    offered += [name for name in public if name not in found]
    doc = ast.get_docstring(tree) or ''
    return Module(path.stem, doc, sorted(entries, key=lambda e: e.line), borrowed, sorted(set(offered)))


def read_library(root: Path, stems: list) -> dict:
    "Module name -> Module, for those of the names `stems` that are modules and export something."
    text = (root / 'mcl' / '_modidx.py').read_text(encoding='utf-8')
    index = ast.literal_eval(re.search(r'^d = (.*)', text, re.S | re.M)[1])
    paths = [root / 'mcl' / f'{stem}.py' for stem in stems]
    modules = [read_module(path, index['syms'].get(f'mcl.{path.stem}', {}))
               for path in paths if path.exists()]
    return {module.name: module for module in modules if module.entries}
