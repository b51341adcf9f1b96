"""The page about a run: what it holds, and what names of files cannot do to it."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from mcl.page import album_of, as_page

NASTY = [
    '</script><script>alert(1)</script>.jpg',
    '<img src=x onerror=alert(1)>.jpg',
    '"><b>.jpg',
    "it's & {{ 7 * 7 }} {% raw %}.jpg",
    'line\nbreak\tand \x1b[31mcolour\x00.jpg',
    'right\u202eto left.jpg',
    'no \udcff letter.jpg',
    'emoji 🙂 ümlaut.jpg',
]


def album(n=40, n_images=1500):
    "Three clusters and some outliers, with names that mean harm."
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 4 - 1
    points = np.eye(4)[labels] + 0.1 * rng.normal(size=(n, 4))
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype('f')
    names = [*NASTY, *(f'camera 1/{i}.jpg' for i in range(n))][:n]
    images = rng.integers(0, 255, (n, 3, 32, 16), dtype=np.uint8)
    return album_of(lambda i: images[i], names, points, labels, np.where(labels < 0, np.nan, 0.4), n_images)


class Tags(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def test_names_are_text_whatever_they_say():
    held = album()
    page = as_page(NASTY[0], {NASTY[1]: {NASTY[2]: NASTY[3], 'name': NASTY[4]}}, {}, held)
    page.encode('utf-8')
    tags = Tags(page).found
    assert [tag for tag, _ in tags].count('script') == 2 and not [t for t, _ in tags if t == 'b']
    assert not [a for _, a in tags if any(key.startswith('on') for key in a)]
    assert '49' not in re.sub(r'<script.*?</script>', '', page, flags=re.S)
    inside = re.search(r'type="application/json">(.*?)</script>', page, flags=re.S)[1]
    assert json.loads(inside)['names'] == held['names'] and '<' not in inside
    assert all(name.isprintable() for name in held['names']) and 'emoji 🙂 ümlaut.jpg' in held['names']


def test_the_page_loads_nothing():
    page = as_page('a run', {}, {}, album())
    for tag, attributes in Tags(page).found:
        assert tag not in ('link', 'iframe', 'object')
        assert attributes.get('src', 'data:').startswith('data:') and 'href' not in attributes
    assert "default-src 'none'" in page and 'connect-src' not in page


@pytest.mark.parametrize('n, n_images', [(1, 10), (2, 10), (4, 10), (40, 1), (40, 12), (40, 40)])
def test_an_album_of_any_size_is_whole(n, n_images):
    held = album(n, n_images)
    shown = len(held['names'])
    assert shown == min(n, n_images) and f'{shown} of {n} images are shown' in held['said']
    for near in held['near']:
        assert len(near) == min(8, shown - 1) and all(0 <= j < shown for j in near)
    assert all(i not in near for i, near in enumerate(held['near']))
    assert 0 <= min(held['x']) and max(held['x']) <= 1
    json.dumps(held, allow_nan=False)
    assert set(held['clusters']) <= {label for label, _ in held['sheets']}
