"""How hard is the desk world? mAP of the untrained and the pre-trained network beside the supervised bound, in every world of the study.

    python tools/pedworld_difficulty.py     reads figures/results/fractions.json, or reproduce.json where that is missing; writes figures/results/pedworld_difficulty.json
"""
import json
from pathlib import Path

from mcl.data import load_dataset
from mcl.models import build_model
from mcl.training import evaluate_model, open_stores, provenance, write_json

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / 'figures' / 'results'


def main():
    path = next(p for p in (RESULTS / 'fractions.json', RESULTS / 'reproduce.json') if p.exists())
    rows = []
    for bound in (run for run in json.loads(path.read_text())['runs'] if run['method'] == 'supervised'):
        stores = open_stores(load_dataset(bound['world'], root=ROOT / 'runs' / 'worlds'))
        for name, weights in (('untrained network', None), ('pre-trained network', 'source')):
            rows.append(dict(feature=name, world='desk', seed=bound['seed'], mAP=100 * float(evaluate_model(build_model('small', weights), stores).mAP)))
        rows.append(dict(feature='supervised', world='desk', seed=bound['seed'], mAP=bound['mAP']))
    write_json(RESULTS / 'pedworld_difficulty.json', dict(study='pedworld_difficulty', **provenance('cpu'), runs=rows))


if __name__ == '__main__':
    main()
