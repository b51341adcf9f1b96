"""Figures draw the numbers they were given, and stored tables and pictures are what today's code makes."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mcl import curves, galleries, maps, plots
from mcl.cost_tables import pareto_front
from mcl.report import PICTURES, draw_study
from mcl.results import load_runs
from mcl.variants import STUDIES

FIGURES = Path(__file__).resolve().parent.parent / 'figures'
FILES = [path for path in sorted((FIGURES / 'results').glob('*.json')) if path.stem.split('_')[0] in STUDIES]


@pytest.fixture(autouse=True)
def no_figure_left_open():
    yield
    plt.close('all')


@pytest.fixture(scope='module')
def runs():
    return load_runs(FIGURES / 'results' / 'fractions.json')


@pytest.mark.parametrize('results', FILES, ids=lambda path: path.stem)
def test_a_table_is_made_of_its_result_file_by_the_code_of_today(results, tmp_path):
    study = results.stem.split('_')[0]
    again = f'run `mcl reproduce --study {study} --no-missing` and commit the figures'
    assert draw_study(study, results, tmp_path) == (FIGURES / f'{results.stem}.md').read_text(
        encoding='utf-8'
    ), again
    if study in PICTURES:
        picture = PICTURES[study] + results.stem.removeprefix(study)
        for name in (picture, f'{picture}_seconds'):
            assert looks_like(tmp_path / f'{name}.png', FIGURES / f'{name}.png'), again


def looks_like(one, other):
    "Do two pictures show the same, whatever the version of the library that drew their letters?"
    one, other = (Image.open(path).convert('RGB') for path in (one, other))
    sides = [size // 8 for size in one.size]
    coarse = [np.asarray(image.resize(sides, Image.Resampling.BOX), float) for image in (one, other)]
    return one.size == other.size and np.abs(coarse[0] - coarse[1]).max() < 64


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


def test_pictures_that_differ_in_a_point_do_not_look_alike(tmp_path, runs):
    moved = runs.assign(mAP=runs.mAP.where(runs.method != 'mcl', runs.mAP + 5))
    paths = [tmp_path / 'drawn.png', tmp_path / 'moved.png']
    for path, drawn in zip(paths, (runs, moved)):
        plots.save_figure(plots.cost_accuracy(drawn), path)
    assert looks_like(paths[0], paths[0]) and not looks_like(*paths)


def by_label(artists):
    return {artist.get_label(): artist for artist in artists}


@pytest.mark.parametrize('cost', ['clustering_pairs', 'clustering_s', 'labelling_s', 'total_s'])
def test_cost_and_accuracy_stand_where_the_runs_put_them(runs, cost):
    ax = plots.cost_accuracy(runs, cost).axes[0]
    drawn = by_label(ax.containers)
    groups = runs.assign(cost=plots.cost_column(runs, cost)[0])
    for method, rows in groups[groups.method != 'supervised'].groupby('method'):
        means = rows.groupby('n_subsets')[['cost', 'mAP']].mean().sort_values('mAP')
        line, _, (bars,) = drawn[method].lines
        x, y = (np.asarray(values, float) for values in line.get_data())
        assert np.sort(y) == pytest.approx(means.mAP.to_numpy())
        moved = x[np.argsort(y)] / means.cost.to_numpy(float)
        assert np.abs(np.log10(moved)).max() < 0.1  # near-equal costs are moved aside, no further
        spans = np.array([segment[:, 1] for segment in bars.get_segments()])
        assert (spans[:, 0] <= y).all() and (y <= spans[:, 1]).all()
    supervised = by_label(ax.lines)['supervised (no clustering)']
    assert set(supervised.get_ydata()) == {runs.mAP[runs.method == 'supervised'].mean()}


def test_the_front_goes_through_the_points_that_no_other_beats(runs):
    ax = plots.cost_accuracy(runs).axes[0]
    points = plots.cost_points(runs)
    points = points[(points.method != 'supervised') & (points.cost > 0)]
    best = points['mean'].to_numpy()[pareto_front(points.cost, points['mean'])]
    assert by_label(ax.lines)['Pareto front'].get_ydata() == pytest.approx(best)


def test_the_profile_of_eps_draws_counts_and_shares():
    profile = dict(eps=np.array([0.3, 0.5, 0.7]), clusters=np.array([9, 12, 4]))
    profile['outliers'] = np.array([0.5, 0.25, 0.0])
    left, right = curves.plot_eps_profile(profile, 0.5).axes
    for line, values in ((left.lines[0], [9, 12, 4]), (right.lines[0], [50, 25, 0])):
        assert line.get_xdata().tolist() == [0.3, 0.5, 0.7] and line.get_ydata().tolist() == values
    assert left.lines[1].get_xdata() == [0.5, 0.5]


def test_the_health_of_clusters_counts_every_cluster_and_image_once():
    labels = np.array([0] * 3 + [1] * 3 + [2] * 7 + [-1] * 4)
    silhouettes = np.where(labels == 2, -0.21, 0.52)
    sizes, fit = curves.cluster_health(labels, silhouettes).axes
    filled = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in sizes.patches}
    assert {size: n for size, n in filled.items() if n} == {3: 2, 7: 1}
    heights = {round(bar.get_x(), 2): bar.get_height() for bar in fit.patches if bar.get_height()}
    assert list(heights.values()) == [7, 6] and list(heights) == pytest.approx([-0.25, 0.5])
    assert '54%' in fit.get_title(loc='left')  # 7 of 13 images that have a cluster


def test_training_curves_are_the_history():
    history = [dict(n_clusters=n, mAP=None if n == 7 else 10.0 * n) for n in (5, 7, 6)]
    clusters, accuracy = curves.training_curves({'mcl': history, 'full': [dict(n_clusters=4)]}).axes
    lines = by_label(clusters.lines)
    assert lines['mcl'].get_xdata().tolist() == [1, 2, 3] and lines['mcl'].get_ydata().tolist() == [5, 7, 6]
    assert lines['full'].get_ydata().tolist() == [4]
    (line,) = accuracy.lines
    np.testing.assert_array_equal(line.get_ydata(), [50, np.nan, 60])


def test_a_map_puts_every_image_at_its_place_in_the_colour_of_its_person():
    rng = np.random.default_rng(0)
    plane, ids = rng.normal(size=(40, 2)), rng.integers(1, 5, 40)
    ax = plt.figure().subplots()
    maps.draw_map(ax, plane, ids, np.array([2, 3]), 'person')
    handles = dict(zip(*ax.get_legend_handles_labels()[::-1]))
    rest, *layers = ax.collections
    assert rest.get_offsets().tolist() == plane[~np.isin(ids, [2, 3])].tolist()
    for person in (2, 3):
        colour = handles[f'person {person}'].get_facecolor()[0]
        same = [layer.get_offsets() for layer in layers if np.allclose(layer.get_facecolor()[0], colour)]
        assert sorted(np.concatenate(same).tolist()) == sorted(plane[ids == person].tolist())


def test_maps_before_and_after_are_those_of_their_features():
    rng = np.random.default_rng(1)
    before, after = rng.normal(size=(2, 30, 8)).astype('f4')
    planes = tuple(rng.normal(size=(2, 30, 2)))
    pids, camids = np.repeat(np.arange(1, 6), 6), np.tile([1, 2], 15)
    figure = maps.umap_pair(before, after, pids, camids, embeddings=planes)
    for axes, plane in zip((figure.axes[:2], figure.axes[2:4]), planes):
        for ax in axes:
            found = np.concatenate([layer.get_offsets() for layer in ax.collections])
            np.testing.assert_allclose(sorted(found.tolist()), sorted(plane.tolist()))


def pixels(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 12, 6, 3), dtype=np.uint8)


def test_a_gallery_shows_each_image_in_its_place_with_the_frame_of_its_truth():
    images, flags = pixels(6), [[True, False], [False, True]]
    figure = galleries.ranked_gallery(images[:2], [images[2:4], [images[4], None]], flags)
    shown = [[image.get_array() for image in ax.images] for ax in figure.axes]
    order = [images[0], images[2], images[3], images[1], images[4], None]
    for found, wanted in zip(shown, order):
        assert not found if wanted is None else np.array_equal(found[0], wanted)
    frames = [[patch.get_linestyle() for patch in ax.patches] for ax in figure.axes]
    solid = [styles[0] in ('-', 'solid') if styles else None for styles in frames]
    assert solid == [True, True, False, True, False, None]


def test_a_contact_sheet_shows_only_members_of_the_cluster_of_a_row():
    images = pixels(20).transpose(0, 3, 1, 2)
    labels = np.array([0] * 9 + [1] * 6 + [-1] * 5)
    figure = galleries.contact_sheet(images, labels, n_images=4)
    for row, label in enumerate((0, 1)):
        members = [galleries.as_image(image).tolist() for image in images[labels == label]]
        found = [ax.images[0].get_array().tolist() for ax in figure.axes[4 * row : 4 * row + 4]]
        assert all(image in members for image in found)
        assert len({str(image) for image in found}) == 4


def test_a_saved_picture_has_the_pixels_of_its_figure(tmp_path):
    figure, [[ax]] = plots.canvas(size=(2, 2))
    ax.set_axis_off()
    ax.imshow(np.full((4, 4, 3), (10, 120, 240), np.uint8))
    path = plots.save_figure(figure, tmp_path / 'blue.png', colours=16)
    centre = np.asarray(Image.open(path).convert('RGB'))[120, 120]
    assert np.abs(centre.astype(int) - (10, 120, 240)).max() <= 2


def test_an_empty_table_is_no_picture():
    nothing = pd.DataFrame(dict(method=['mcl'], mAP=[1.0], world=['a'], clustering_pairs=[0.0]))
    with pytest.raises(ValueError, match='above 0'):
        plots.cost_accuracy(nothing)
