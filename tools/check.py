"""Are mcl/ and the notebooks, the notebooks and nbdev_clean, README.md and nbs/index.ipynb in step?

    python tools/check.py                  says what is not, and fails
    python tools/check.py --write-readme   writes README.md and API.md
"""
import filecmp
import inspect
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import branches
import nbformat
from nbconvert import MarkdownExporter
from openings import openings

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import mcl  # noqa: E402


def readme() -> str:
    "README.md: the index notebook without its code, links and pictures as seen from the top folder."
    notebook = nbformat.read(ROOT / 'nbs' / 'index.ipynb', as_version=4)
    exporter = MarkdownExporter(exclude_input=True, exclude_input_prompt=True, exclude_output_prompt=True)
    notebook.cells = [c for c in notebook.cells if not re.match(r'#\s*\|\s*hide\b', c.source)]
    text, _ = exporter.from_notebook_node(notebook)
    text = re.sub(r'\]\(\.\./', '](', text)
    text = re.sub(r'src="\.\./', 'src="', text)
    text = re.sub(r'\]\((\w+\.ipynb)', r'](nbs/\1', text)
    return re.sub(r'\n{3,}', '\n\n', text).strip() + '\n'


def api() -> str:
    "API.md: the public names, with the first sentence of what each says about itself."
    lines = [
        '# The public names',
        '',
        'Loaded from `mcl` itself when first used, as in `from mcl import cluster`. Other names live in the',
        'modules and may change from one version to the next.',
        '',
        '| name | module | what it is |',
        '|---|---|---|',
    ]
    for name, module in mcl.PUBLIC.items():
        value = getattr(mcl, name)
        documented = callable(value) or isinstance(value, type)
        text = (inspect.getdoc(value) if documented else None) or 'named settings of `train`'
        sentence = ' '.join(text.split('\n\n')[0].split())
        sentence = re.split(r'(?<=\.) (?=[A-Z])', sentence)[0].rstrip('.').replace('|', '\\|')
        lines.append(f'| `{name}` | [mcl.{module}](mcl/{module}.py) | {sentence} |')
    return '\n'.join(lines) + '\n'


def stale_modules() -> list:
    "Modules that differ from a fresh export of the notebooks, made in a copy."
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / 'project'
        copy.mkdir()
        passed_over = shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints')
        for name in ('nbs', 'mcl'):
            shutil.copytree(ROOT / name, copy / name, ignore=passed_over)
        for name in ('settings.ini', 'setup.py', 'pyproject.toml'):
            shutil.copy(ROOT / name, copy / name)
        for module in (copy / 'mcl').glob('*.py'):
            if module.name not in ('__init__.py', '__main__.py'):
                module.unlink()
        subprocess.run([Path(sys.executable).parent / 'nbdev_export'], cwd=copy, check=True)
        names = {p.name for folder in (copy, ROOT) for p in (folder / 'mcl').glob('*.py')}
        return sorted(n for n in names if not same(copy / 'mcl' / n, ROOT / 'mcl' / n))


def same(a: Path, b: Path) -> bool:
    return a.exists() and b.exists() and filecmp.cmp(a, b, shallow=False)


def read_json(path: Path):
    return json.loads(path.read_text(encoding='utf-8'))


def unclean_notebooks() -> list:
    "Notebooks that nbdev_clean would change."
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / 'nbs'
        shutil.copytree(ROOT / 'nbs', copy, ignore=shutil.ignore_patterns('.ipynb_checkpoints'))
        shutil.copy(ROOT / 'settings.ini', Path(folder) / 'settings.ini')
        subprocess.run([Path(sys.executable).parent / 'nbdev_clean', '--fname', copy], cwd=folder, check=True)
        names = sorted(path.name for path in copy.glob('*.ipynb'))
        return [name for name in names if read_json(copy / name) != read_json(ROOT / 'nbs' / name)]


def main() -> int:
    if '--write-readme' in sys.argv:
        (ROOT / 'README.md').write_text(readme(), encoding='utf-8')
        (ROOT / 'API.md').write_text(api(), encoding='utf-8')
        return 0
    problems = [f'mcl/{n} differs from its notebook: run `make export`' for n in stale_modules()]
    problems += [f'nbs/{n} is not clean: run `nbdev_clean`' for n in unclean_notebooks()]
    drawn = openings().items()
    stale = [path.name for path, picture in drawn if not path.exists() or path.read_bytes() != picture]
    problems += [f'figures/openings/{n} differs from its notebook: run `make export`' for n in stale]
    if not (ROOT / 'API.md').exists() or (ROOT / 'API.md').read_text(encoding='utf-8') != api():
        problems.append('API.md differs from the docstrings: run `make export`')
    if (ROOT / 'README.md').read_text(encoding='utf-8') != readme():
        problems.append('README.md differs from nbs/index.ipynb: run `make export`')
    page = branches.PAGE.read_text(encoding='utf-8')
    if page != branches.filled(page):
        problems.append('CONTRIBUTING.md differs from figures/results/coverage.json: run `make coverage`')
    print('\n'.join(problems) or 'exported code, notebooks and README are in step')
    return bool(problems)


if __name__ == '__main__':
    sys.exit(main())
