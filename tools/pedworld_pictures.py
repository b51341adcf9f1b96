"""The pictures at the head of the notebooks on PedWorld, which come before the code that draws them.

    python tools/pedworld_pictures.py     writes figures/pedworld*.jpg; run it whenever VERSION is raised
"""
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from mcl.drawing import ELLIPSE, ROOM, add_body, add_shape, paint_figure, paint_shape
from mcl.pedworld import render_image
from mcl.people import PERSON, people_of
from mcl.schedule import schedule
from mcl.world import preset

FIGURES = Path(__file__).resolve().parent.parent / 'figures'
GROUND = 0.9          # brightness of a plain ground
HEIGHT = 128


def save_sheet(name: str, rows: list, row_names=(), column_names=(), size: float = 1.0):
    "A grid of images, a list of lists of (h, w, 3) in 0..1, as figures/<name>.jpg."
    height, width = rows[0][0].shape[:2]
    sheet = np.concatenate([np.concatenate(row, axis=1) for row in rows])
    shape = (size * len(rows[0]) + 0.6, size * len(rows) * height / width + 0.3)
    figure, axis = plt.subplots(figsize=shape, layout='constrained')
    axis.imshow(sheet)
    axis.set(xticks=[], yticks=[])
    axis.xaxis.tick_top()
    axis.set_xticks((np.arange(len(column_names)) + 0.5) * width, column_names, fontsize=9)
    axis.set_yticks((np.arange(len(row_names)) + 0.5) * height, row_names, fontsize=9)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    figure.savefig(FIGURES / f'{name}.jpg', dpi=110, bbox_inches='tight', pil_kwargs={'quality': 85})
    plt.close(figure)


def portrait(person, view: float) -> np.ndarray:
    "A person on a plain ground, without any camera."
    canvas = np.full((HEIGHT, HEIGHT // 2, 3), GROUND, np.float32)
    paint_figure(canvas, person, view, 1.2, HEIGHT / 4, 0.05 * HEIGHT, 0.88 * HEIGHT, 0.05)
    return np.clip(canvas, 0, 1)


def people_and_cameras(world, train):
    "People who passed nearly all cameras, one image per camera; a gap where a camera never saw the person."
    gap = np.ones((*world.size, 3))

    def image_of(pid, camera):
        mine = train[(train['pid'] == pid) & (train['camid'] == camera)]
        return render_image(world, mine[0]) / 255 if len(mine) else gap

    cameras = range(1, world.n_cams + 1)
    n_seen = {pid: len(np.unique(train['camid'][train['pid'] == pid])) for pid in np.unique(train['pid'])}
    people = [pid for pid, n in n_seen.items() if n >= world.n_cams - 1][:5]
    rows = [[image_of(pid, camera) for camera in cameras] for pid in people]
    names = [f'person {pid}' for pid in people]
    save_sheet('pedworld', rows, names, [f'camera {c}' for c in cameras], size=0.9)


def lookalikes(people, n_pairs: int = 6):
    "Pairs of people who differ in the fewest numbers, from the front and from the back."
    flat = np.stack([np.concatenate([np.ravel(person[name]) for name in PERSON.names]) for person in people])
    different = (np.abs(flat[:, None] - flat[None]) > 0.1).sum(axis=2) + 99 * np.eye(len(flat), dtype=int)
    nearest_first = np.argsort(different.min(axis=1), kind='stable')
    pairs = {tuple(sorted((int(i), int(different[i].argmin())))) for i in nearest_first[:6 * n_pairs]}
    shown = [i for pair in sorted(pairs)[:n_pairs] for i in pair]
    rows = [[portrait(people[i], view) for i in shown] for view in (0.3, np.pi + 0.3)]
    save_sheet('pedworld_lookalikes', rows, ['front', 'back'], range(1, len(shown) + 1), size=0.62)


def drawing_in_steps(person, view: float = 0.7, n_steps: int = 8):
    "One person, with more and more of the shapes, in the order of painting."
    shapes = np.zeros((ROOM, 15), np.float32)
    add_shape(shapes, ELLIPSE, 0.03, 0.985, 0.03, 0.985, 0.16, 0.022, (0.12, 0.12, 0.12))
    add_body(shapes, person, view, 1.2)
    n = int(shapes[-1, 0])
    steps = np.linspace(1, n, n_steps).round().astype(int)
    images = []
    for stop in steps:
        canvas = np.full((HEIGHT, HEIGHT // 2, 3), GROUND, np.float32)
        for shape in shapes[:stop]:
            paint_shape(canvas, shape, HEIGHT / 4, 0.05 * HEIGHT, 0.88 * HEIGHT, 0.05)
        images.append(np.clip(canvas, 0, 1))
    names = [f'{stop} shapes' if stop > 1 else 'shadow' for stop in steps]
    save_sheet('pedworld_drawing', [images], column_names=names)


def one_person_before_all_cameras(world, train, person: int, n: int = 3):
    "The same person in `n` images of each camera, whoever was there by the plan."
    rows = []
    for k in range(n):
        row = []
        for camera in range(1, world.n_cams + 1):
            shot = train[train['camid'] == camera][7 * k + 1].copy()
            shot['person'] = person
            row.append(render_image(world, shot) / 255)
        rows.append(row)
    save_sheet('pedworld_cameras', rows, column_names=[f'camera {c}' for c in range(1, world.n_cams + 1)])


def main():
    desk = preset('desk')
    plan = schedule(desk)
    train = plan[plan['split'] == 'train']
    everybody = people_of(desk)
    people_and_cameras(desk, train)
    lookalikes(everybody[:200])
    drawing_in_steps(everybody[1])
    one_person_before_all_cameras(desk, train, person=5)


if __name__ == '__main__':
    main()
