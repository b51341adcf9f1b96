"""The picture at the head of a notebook is drawn by one of its last cells, and copied from there.

    python tools/openings.py    writes figures/openings/NAME.png from the stored outputs
"""

import base64
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / 'figures' / 'openings'


def opening(notebook: Path) -> bytes | None:
    "The picture of the cell labelled `opening`, or None where there is no such cell."
    for cell in json.loads(notebook.read_text(encoding='utf-8'))['cells']:
        if cell['cell_type'] == 'code' and '#| label: opening\n' in ''.join(cell['source']):
            pictures = [output['data'].get('image/png') for output in cell['outputs'] if 'data' in output]
            return base64.b64decode(''.join(next(filter(None, pictures))))
    return None


def openings() -> dict:
    "Files and what they should hold."
    found = {FOLDER / f'{path.stem}.png': opening(path) for path in sorted((ROOT / 'nbs').glob('*.ipynb'))}
    return {path: picture for path, picture in found.items() if picture}


if __name__ == '__main__':
    FOLDER.mkdir(exist_ok=True)
    for path, picture in openings().items():
        path.write_bytes(picture)
