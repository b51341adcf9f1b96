__version__ = "0.1.0"
"""The public names of `mcl`, each loaded when it is first asked for; API.md says what they do.

Every other name is in a module of its own and may change from one version to the next.
"""
from importlib import import_module  # noqa: E402

PUBLIC = {
    'World': 'world',
    'preset': 'world',
    'render': 'pedworld',
    'load_dataset': 'data',
    'ImageStore': 'images',
    'augment_batch': 'images',
    'build_model': 'models',
    'extract_features': 'models',
    'load_weights': 'models',
    'save_weights': 'models',
    'split_subsets': 'sampling',
    'IdentitySampler': 'sampling',
    'CrossSetSampler': 'sampling',
    'knn': 'approximate',
    'jaccard_graph': 'jaccard',
    'cluster': 'clustering',
    'silhouette': 'clustering',
    'JaccardDBSCAN': 'estimator',
    'rerank': 'reranking',
    'MetaPrototypes': 'prototypes',
    'cluster_contrast_loss': 'losses',
    'siamese_consistency_loss': 'losses',
    'soft_weighted_triplet_loss': 'losses',
    'rank_metrics': 'evaluation',
    'evaluate': 'evaluation',
    'TrainConfig': 'config',
    'FULL': 'config',
    'PER_SUBSET': 'config',
    'SUBSET_MATCHED': 'config',
    'MCL': 'config',
    'MCL_PLUS': 'config',
    'SUPERVISED': 'config',
    'RECIPES': 'config',
    'train': 'training',
}
__all__ = ['__version__', *PUBLIC]


def __getattr__(name):
    if name not in PUBLIC:
        raise AttributeError(f'module mcl has no public name {name!r}; API.md lists them')
    return getattr(import_module(f'mcl.{PUBLIC[name]}'), name)


def __dir__():
    return sorted(__all__)
