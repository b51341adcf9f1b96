"""Tables and headlines beside the result files are what today's code makes of them."""

from pathlib import Path

import pytest
from PIL import Image

from mcl.report import PICTURES, draw_study
from mcl.variants import STUDIES

FIGURES = Path(__file__).resolve().parent.parent / 'figures'
FILES = [path for path in sorted((FIGURES / 'results').glob('*.json')) if path.stem.split('_')[0] in STUDIES]


@pytest.mark.parametrize('results', FILES, ids=lambda path: path.stem)
def test_a_table_is_made_of_its_result_file_by_the_code_of_today(results, tmp_path):
    study = results.stem.split('_')[0]
    again = f'run `mcl reproduce --study {study} --no-missing` and commit the figures'
    assert draw_study(study, results, tmp_path) == (FIGURES / f'{results.stem}.md').read_text(
        encoding='utf-8'
    ), again
    if study in PICTURES:
        drawn, kept = (Image.open(folder / f'{PICTURES[study]}.png').text for folder in (tmp_path, FIGURES))
        assert drawn | {'Software': ''} == kept | {'Software': ''}, again


def test_every_study_that_was_run_is_looked_at():
    assert {path.stem for path in FILES} >= {
        'fractions',
        'family',
        'ablations',
        'noise',
        'worlds',
        'random',
        'reproduce',
    }
