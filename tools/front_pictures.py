"""The two pictures at the head of the README: the idea, and what was found.

    python tools/front_pictures.py     writes figures/idea.png and figures/differences.png
"""
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.patches import FancyArrowPatch, Rectangle

from mcl.cost_tables import ratio_text, relative_to
from mcl.images import normalise
from mcl.models import build_model
from mcl.pedworld import render_image
from mcl.plots import PALETTE, Picture, canvas, save_figure, set_style, style_of
from mcl.results import load_runs, paired_difference
from mcl.schedule import schedule
from mcl.world import preset

FIGURES = Path(__file__).resolve().parent.parent / 'figures'
COLOURS = PALETTE[0], PALETTE[1], PALETTE[2]
N_WINDOWS, TEMPERATURE = 4, 0.1


# --- the idea -----------------------------------------------------------------------------------------------

def people_of_window(rows, window: int, n: int, n_images: int) -> list:
    "For the first n people with so many images in a window: these images, spread over cameras."
    inside = rows[(rows['time'] * N_WINDOWS).astype(int) == window]
    found = []
    for pid in np.unique(inside['pid']):
        mine = inside[inside['pid'] == pid]
        _, first = np.unique(mine['camid'], return_index=True)
        if len(first) >= n_images:
            found.append(mine[np.sort(first)][:n_images])
    return found[:n]


@torch.no_grad()
def features_of(images: list) -> np.ndarray:
    "Features of the shipped network, of length 1, one row for each image (h, w, 3)."
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    small = F.interpolate(batch.float(), (64, 32), mode='area').round().byte()
    return build_model('small').eval()(normalise(small)).numpy()


def soft_labels(features: np.ndarray, prototypes: np.ndarray) -> np.ndarray:
    "Softmax of the similarities to the prototypes."
    score = np.exp(features @ prototypes.T / TEMPERATURE)
    return score / score.sum(1, keepdims=True)


def place(ax, image: np.ndarray, x: float, y: float, height: float, colour: str, line: str = '-'):
    "An image with a frame, its middle at (x, y); axes are in inches."
    width = height / 2
    ax.imshow(image, extent=(x - width / 2, x + width / 2, y - height / 2, y + height / 2), zorder=2)
    ax.add_patch(Rectangle((x - width / 2, y - height / 2), width, height, fill=False, edgecolor=colour,
                           linewidth=2, linestyle=line, zorder=3))


def arrow(ax, start: tuple, stop: tuple, **look):
    "An arrow between two points."
    settings = dict(arrowstyle='-|>', mutation_scale=14, linewidth=1.6, color='0.35', shrinkA=0, shrinkB=0)
    ax.add_patch(FancyArrowPatch(start, stop, **{**settings, **look}))


def draw_timeline(ax, left: float, right: float, y: float):
    "A bar of time, cut into windows; the first is the one that is clustered."
    edges = np.linspace(left, right, N_WINDOWS + 1)
    for number, (start, stop) in enumerate(zip(edges, edges[1:])):
        colour = '0.35' if number == 0 else '0.85'
        ax.add_patch(Rectangle((start, y), stop - start - 0.03, 0.2, color=colour))
        ax.text((start + stop) / 2, y + 0.1, f'$X_{number + 1}$', ha='center', va='center', fontsize=9,
                color='white' if number == 0 else 'black')
    ax.text(left, y + 0.27, 'all images in order of time, cut into windows', fontsize=8.5, color='0.35')


def draw_soft_label(ax, x: float, y: float, soft: np.ndarray):
    "One bar for each prototype, in its colour."
    for number, (value, colour) in enumerate(zip(soft, COLOURS)):
        ax.add_patch(Rectangle((x, y + 0.13 - 0.16 * number), 0.03 + 0.75 * value, 0.11, color=colour))


@set_style()
def draw_idea() -> Picture:
    "The method in four steps, with people of PedWorld and what the shipped network makes of them."
    world = preset('desk')
    rows = schedule(world)
    rows = rows[(rows['split'] == 'train') & (rows['pid'] > 0)]
    known = people_of_window(rows, 0, 3, 3)
    strangers = [pair for window in (1, 2) for pair in people_of_window(rows, window, 1, 2)]
    clusters = [[render_image(world, row) for row in group] for group in known]
    pairs = [[render_image(world, row) for row in group] for group in strangers]
    prototypes = np.stack([features_of(images).mean(0) for images in clusters])
    prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    soft = [soft_labels(features_of(images), prototypes) for images in pairs]

    figure = Picture(figsize=(10, 4.15))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    heights = 2.35, 1.5, 0.65
    steps = {0.15: '1  Cluster one window', 2.6: '2  Keep the centres', 4.75: '3  Annotate all the rest',
             7.6: '4  Polish the network'}
    for x, title in steps.items():
        ax.text(x, 3.0, title, fontsize=11, weight='bold')
    draw_timeline(ax, 0.15, 9.85, 3.35)
    for y, images, colour in zip(heights, clusters, COLOURS):
        for number, image in enumerate(images):
            place(ax, image, 0.42 + 0.48 * number, y, 0.76, colour)
        arrow(ax, (1.8, y), (2.75, y), color=colour)
        ax.plot(3.1, y, '*', color=colour, markersize=22)
    ax.text(3.1, 0.17, 'meta-prototypes', ha='center', fontsize=9, color='0.35')
    places = [(2.5, 0), (1.85, 0), (1.15, 1), (0.5, 1)]
    for (y, person), number in zip(places, (0, 1, 0, 1)):
        place(ax, pairs[person][number], 4.95, y, 0.62, '0.6')
        draw_soft_label(ax, 5.25, y, soft[person][number])
    words = 'a soft label:\nhow similar to\neach prototype'
    ax.text(6.15, 2.5, words, fontsize=8.5, color='0.35', va='center')
    arrow(ax, (3.45, 1.5), (4.55, 1.5))
    arrow(ax, (6.5, 1.5), (7.35, 1.5))
    for (y, person) in ((2.2, 0), (0.95, 1)):
        for number, x in enumerate((7.85, 8.95)):
            place(ax, pairs[person][number], x, y, 0.8, '0.6')
        arrow(ax, (8.12, y), (8.68, y), arrowstyle='<|-|>', color=PALETTE[2])
        ax.text(8.4, y + 0.09, 'pull', ha='center', fontsize=8.5, color=PALETTE[2])
    arrow(ax, (8.4, 1.85), (8.4, 1.3), arrowstyle='<|-|>', color=PALETTE[3], linestyle=(0, (3, 2)))
    ax.text(8.5, 1.57, 'push', va='center', fontsize=8.5, color=PALETTE[3])
    ax.plot([8.4, 8.4, 0.9], [0.4, -0.28, -0.28], color='0.6', linewidth=1.6)
    arrow(ax, (0.9, -0.28), (0.9, 0.18), color='0.6')
    ax.text(4.65, -0.24, 'the next epoch starts from better features', fontsize=9, color='0.35', ha='center')
    ax.set(xlim=(0, 10), ylim=(-0.4, 3.75), aspect='equal')
    return figure


# --- what was found -----------------------------------------------------------------------------------------

BOTH_CHANGES = 'mcl_plus_both_changes'
SHOWN = {'per_subset_16_of_16': 'per_subset, 16 of 16 windows',
         BOTH_CHANGES: 'mcl_plus with both changes, 1 of 4',
         'mcl_plus': 'mcl_plus, 1 of 4', 'subset_matched': 'subset_matched, 1 of 4',
         'mcl': 'mcl (our reading), 1 of 4'}     # variants of the study, and what to call them


def differences(runs, rival: str) -> dict:
    "Variant -> paired difference in mAP from the rival."
    return {variant: paired_difference(runs, dict(variant=variant), dict(variant=rival))
            for variant in SHOWN if variant != rival}


def draw_panel(ax, runs, rival: str) -> None:
    "Points with intervals beside a line at zero, one row for each variant."
    methods = runs.groupby('variant').method.first()
    for variant, gap in differences(runs, rival).items():
        style = style_of(methods[variant])
        interval = [[gap.mean - gap.low], [gap.high - gap.mean]]
        filling = 'white' if variant == BOTH_CHANGES else style['color']
        ax.errorbar(gap.mean, list(SHOWN).index(variant), xerr=interval, fmt=style['marker'],
                    color=style['color'], markerfacecolor=filling, markersize=8, capsize=4)
    ax.axvline(0, color='k', lw=1)
    ax.set_xlabel(f'mAP minus that of {rival}, points')


@set_style()
def draw_differences(runs) -> Picture:
    "Paired differences from clustering everything and from the control, in the fresh worlds."
    figure, [[left, right]] = canvas(size=(10, 2.9), columns=2)
    draw_panel(left, runs, 'full')
    draw_panel(right, runs, 'subset_matched')
    pairs = relative_to(runs).groupby(runs.variant).mean()
    shares = {ratio_text(pairs[variant]) for variant in SHOWN}
    left.set_yticks(range(len(SHOWN)), SHOWN.values())
    right.set_yticks([])
    for ax in (left, right):
        ax.set_ylim(len(SHOWN) - 0.5, -0.5)
    lost = paired_difference(runs, dict(variant='mcl'), dict(variant='subset_matched')).mean
    won = paired_difference(runs, dict(variant='per_subset_16_of_16'), dict(variant='full')).mean
    title = f"Window by window: {won:+.1f} over full; annotation by mcl: {lost:+.1f} against its control"
    worlds = f'PedWorld, {runs.world.nunique()} worlds'
    said = f'{worlds}, 95 % intervals; all at {" or ".join(shares)} of the pairs'
    figure.suptitle(f'{title} ({said})', fontsize=10)
    return figure


def main() -> None:
    save_figure(draw_idea(), FIGURES / 'idea.png', {'made by': 'tools/front_pictures.py'}, colours=256)
    fresh = load_runs(FIGURES / 'results' / 'fresh.json')
    drawn = {rival: {variant: gap[:3] for variant, gap in differences(fresh, rival).items()}
             for rival in ('full', 'subset_matched')}     # mean, low, high
    facts = {'made by': 'tools/front_pictures.py', 'made from': 'fresh.json', 'drawn': drawn}
    save_figure(draw_differences(fresh), FIGURES / 'differences.png', facts)


if __name__ == '__main__':
    main()
