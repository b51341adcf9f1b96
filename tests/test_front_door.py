"""The README: short, in order, and its picture drawn from today's result file."""
import ast
import importlib
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / 'README.md').read_text(encoding='utf-8')
FIRST_PART = README.split("\n## The paper's words")[0]


@pytest.fixture(scope='module')
def front():
    "tools/front_pictures.py as a module."
    spec = importlib.util.spec_from_file_location('front_pictures', ROOT / 'tools' / 'front_pictures.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def fresh(front):
    return front.load_runs(ROOT / 'figures' / 'results' / 'fresh.json')


def test_the_first_part_is_short():
    words = [word for word in FIRST_PART.split() if re.search(r'\w', word)]
    assert len(words) < 600, f'{len(words)} words'


def test_sections_come_in_the_order_of_a_newcomers_questions():
    sections = re.findall(r'^## (.*)', FIRST_PART, flags=re.M)
    assert sections == ['What we found', 'Try it in a minute', 'In Python', 'The methods',
                        'Results in PedWorld', 'Three ways to read', 'Your own images', 'Limits']


def test_every_command_of_the_readme_exists():
    makefile = (ROOT / 'Makefile').read_text(encoding='utf-8')
    commands = set(re.findall(r'\bmake (\w+)', README))
    assert commands and commands <= set(re.findall(r'^(\w+):', makefile, flags=re.M))


def test_the_python_of_the_readme_is_about_names_that_exist():
    code = re.search(r'```python\n(.*?)```', FIRST_PART, flags=re.S)[1]
    assert len(code.splitlines()) == 4
    for node in ast.parse(code).body:
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names)


def test_the_picture_draws_the_differences(front, fresh):
    figure = front.draw_differences(fresh)
    for ax, rival in zip(figure.axes, ('full', 'subset_matched')):
        gaps = list(front.differences(fresh, rival).values())
        points = [bar.lines[0].get_xdata()[0] for bar in ax.containers]
        intervals = [bar.lines[2][0].get_segments()[0][:, 0] for bar in ax.containers]
        assert np.allclose(points, [gap.mean for gap in gaps])
        assert np.allclose(intervals, [(gap.low, gap.high) for gap in gaps])
    assert '\n' not in figure.get_suptitle()


def test_the_stored_picture_shows_the_runs_of_today(front, fresh):
    kept = json.loads(Image.open(ROOT / 'figures' / 'differences.png').text['drawn'])
    for rival, drawn in kept.items():
        today = {variant: gap[:3] for variant, gap in front.differences(fresh, rival).items()}
        assert drawn.keys() == today.keys()
        same = [np.allclose(drawn[variant], today[variant]) for variant in today]
        assert all(same), 'run tools/front_pictures.py'
