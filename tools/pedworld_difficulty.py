"""How hard is the desk world? mAP of an untrained and of the pre-trained network beside the supervised
bound.

    python tools/pedworld_difficulty.py     writes figures/results/pedworld_difficulty.json

The worlds and the bound are those of the study: figures/results/fractions.json, or else reproduce.json.
"""
import json
from pathlib import Path

from mcl.core import write_json
from mcl.data import load_dataset
from mcl.images import open_stores
from mcl.models import build_model
from mcl.records import provenance
from mcl.training import evaluate_model

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / 'figures' / 'results'
NETWORKS = {'untrained network': None, 'pre-trained network': 'source'}   # feature -> weights


def supervised_runs() -> list:
    "Runs that were taught the identities, one for each world of the study."
    path = next(p for p in (RESULTS / 'fractions.json', RESULTS / 'reproduce.json') if p.exists())
    return [run for run in json.loads(path.read_text())['runs'] if run['method'] == 'supervised']


def main():
    rows = []
    for bound in supervised_runs():
        where = dict(world='desk', seed=bound['seed'])
        stores = open_stores(load_dataset(bound['world'], root=ROOT / 'runs' / 'worlds'))
        for feature, weights in NETWORKS.items():
            metrics = evaluate_model(build_model('small', weights), stores)
            rows.append(dict(feature=feature, **where, mAP=100 * float(metrics.mAP)))
        rows.append(dict(feature='supervised', **where, mAP=bound['mAP']))
    record = dict(study='pedworld_difficulty', **provenance('cpu'), runs=rows)
    write_json(RESULTS / 'pedworld_difficulty.json', record)


if __name__ == '__main__':
    main()
