"""Which branches of the code the tests reach, and which nobody does.

    python tools/branches.py                 runs all of pytest, writes figures/results/coverage.json and the
                                             section of CONTRIBUTING.md that shows it (`make coverage`)
    python tools/branches.py tests/test_x.py shows what these tests reach, and writes nothing
"""
import ast
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / 'figures' / 'results' / 'coverage.json'
PAGE = ROOT / 'CONTRIBUTING.md'
BEGIN, END = '<!-- branches: written by `make coverage` -->', '<!-- end of branches -->'


def measure(tests: list[str]) -> dict:
    "What `coverage json` says after these tests, run on two cores."
    with tempfile.TemporaryDirectory() as folder:
        data, report = Path(folder) / 'data', Path(folder) / 'report.json'
        coverage = [sys.executable, '-m', 'coverage']
        tested = [*coverage, 'run', f'--data-file={data}', '-m', 'pytest', '-q', '-n', '2', *tests]
        failed = subprocess.run(tested, cwd=ROOT).returncode
        subprocess.run([*coverage, 'combine', f'--data-file={data}', folder], cwd=ROOT, check=True)
        words = [*coverage, 'json', '-q', f'--data-file={data}', '-o', report]
        subprocess.run(words, cwd=ROOT, check=True)
        if failed:
            print('Some tests failed: what they would have reached is not counted.', file=sys.stderr)
        return json.loads(report.read_text())


def functions(text: str) -> dict[int, str]:
    "Line number -> name of the function or class it lies in, the innermost one."
    found = {}

    def walk(node, name):
        for child in ast.iter_child_nodes(node):
            is_named = isinstance(child, (ast.FunctionDef, ast.ClassDef))
            inside = '.'.join(filter(None, [name, child.name])) if is_named else name
            if is_named:
                found.update(dict.fromkeys(range(child.lineno, child.end_lineno + 1), inside))
            walk(child, inside)

    walk(ast.parse(text), '')
    return found


def unreached(path: Path, branches: list) -> list[str]:
    "Branches (from a line, to a line) by the function they lie in and the line that branches."
    text = path.read_text(encoding='utf-8')
    names, lines = functions(text), text.splitlines()
    return [f'{names.get(line, "top")}: {lines[line - 1].strip()}' for line, _ in branches]


def summary(report: dict) -> dict:
    "Branches in all and by module, and those that no test takes."
    modules = {}
    for name, found in sorted(report['files'].items()):
        numbers = found['summary']
        if numbers['num_branches']:
            modules[Path(name).stem] = dict(
                branches=numbers['num_branches'],
                reached=numbers['covered_branches'],
                unreached=unreached(ROOT / name, found['missing_branches']),
            )
    totals = report['totals']
    return dict(branches=totals['num_branches'], reached=totals['covered_branches'], modules=modules)


def section(found: dict) -> str:
    "The part of CONTRIBUTING.md that shows it."
    share = 100 * found['reached'] / found['branches']
    lines = [
        BEGIN,
        f'The tests of `tests/` take {share:.1f} % of the {found["branches"]:,} branches of the code. (The '
        'notebooks test it, too, and are not counted.) Functions with branches that none of them takes:',
        '',
    ]
    for module, part in found['modules'].items():
        names = sorted({text.partition(': ')[0] for text in part['unreached']})
        if names:
            shown = ', '.join(f'`{name}`' for name in names)
            lines.append(f'- `{module}`, {part["reached"]} of {part["branches"]}: {shown}')
    return '\n'.join([*lines, END])


def filled(page: str) -> str:
    "CONTRIBUTING.md with the section of today's result file; as it is, where there is none."
    if not RESULTS.exists() or BEGIN not in page:
        return page
    before, rest = page.split(BEGIN)
    found = json.loads(RESULTS.read_text(encoding='utf-8'))
    return before + section(found) + rest.split(END)[1]


def main() -> None:
    tests = sys.argv[1:]
    found = summary(measure(tests or ['tests']))
    print(section(found))
    if not tests:
        RESULTS.write_text(json.dumps(found, indent=1) + '\n', encoding='utf-8')
        PAGE.write_text(filled(PAGE.read_text(encoding='utf-8')), encoding='utf-8')


if __name__ == '__main__':
    main()
