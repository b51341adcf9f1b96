"""Comments of parameters: docments gives a comment to the parameter on whose line it stands, and to
no other. A comment that follows a bare parameter looks as if it spoke of both.
"""
import ast
import io
import tokenize
from pathlib import Path

import pytest

MODULES = sorted((Path(__file__).resolve().parent.parent / 'mcl').glob('[a-z]*.py'))
SPEAK_FOR_THEMSELVES = {
    'config',
    'dataset',
    'device',
    'folder',
    'labels',
    'labels_path',
    'model',
    'network',
    'progress',
    'prototypes',
    'rank',
    'runs',
    'self',
    'store',
    'title',
    'workers',
    'world',
}


def commented_lines(text):
    "Numbers of the lines that end in a comment."
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.start[0] for token in tokens if token.type == tokenize.COMMENT}


def misplaced_comments(text):
    "Pairs of parameters, on lines of their own, of which only the second has a comment."
    commented, found = commented_lines(text), []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            named = node.args
            parameters = [*named.posonlyargs, *named.args, named.vararg, *named.kwonlyargs, named.kwarg]
            rows = [(p.arg, p.end_lineno) for p in parameters if p]
            found += [
                f'{node.name}: {bare}, {told}'
                for (bare, above), (told, below) in zip(rows, rows[1:])
                if above < below and above not in commented and below in commented
                and bare not in SPEAK_FOR_THEMSELVES
            ]
    return found


def test_a_shared_comment_is_found():
    text = 'def f(\n    x,\n    y,  # (n,) and (m,)\n    config,\n    z,  # a number\n): ...\n'
    assert misplaced_comments(text) == ['f: x, y']
    assert not misplaced_comments('def f(\n    x,  # (n,)\n    y,  # (m,)\n): ...\n')


@pytest.mark.parametrize('module', MODULES, ids=lambda path: path.stem)
def test_one_parameter_one_comment(module):
    found = misplaced_comments(module.read_text(encoding='utf-8'))
    assert not found, 'give each parameter a comment of its own: ' + '; '.join(found)
