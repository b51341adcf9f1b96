"""How hard is the desk world? mAP of the untrained and the pre-trained network beside the supervised bound of the study.

    python tools/pedworld_difficulty.py     reads figures/results/reproduce.json, writes figures/results/pedworld_difficulty.json
"""
import json
from pathlib import Path

from mcl.data import load_dataset
from mcl.models import build_model
from mcl.training import evaluate_model, open_stores, provenance, write_json

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / 'figures' / 'results'


def main():
    study = json.loads((RESULTS / 'reproduce.json').read_text())['runs']
    supervised = next(r for r in study if r['method'] == 'supervised')
    stores = open_stores(load_dataset(supervised['world'], root=ROOT / 'runs' / 'worlds'))
    rows = [dict(feature=name, world='desk', seed=supervised['seed'], mAP=100 * float(evaluate_model(build_model('small', weights), stores).mAP))
            for name, weights in (('untrained network', None), ('pre-trained network', 'source'))]
    rows.append(dict(feature='supervised', world='desk', seed=supervised['seed'], mAP=supervised['mAP']))
    write_json(RESULTS / 'pedworld_difficulty.json', dict(study='pedworld_difficulty', **provenance('cpu'), runs=rows))


if __name__ == '__main__':
    main()
