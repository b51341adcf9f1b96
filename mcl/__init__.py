__version__ = "0.1.0"
"""The public names of `mcl`, each loaded when it is first asked for; API.md says what they do.

Every other name is in a module of its own and may change from one version to the next.
"""
from importlib import import_module  # noqa: E402
from typing import TYPE_CHECKING, Any  # noqa: E402

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
    'save_pretrained': 'pretrained',
    'from_pretrained': 'pretrained',
    'fast_network': 'inference',
    'cached_stores': 'loading',
    'split_subsets': 'sampling',
    'IdentitySampler': 'sampling',
    'CrossSetSampler': 'sampling',
    'knn': 'approximate',
    'jaccard_graph': 'jaccard',
    'cluster': 'clustering',
    'silhouette': 'parameters',
    'JaccardDBSCAN': 'estimator',
    'GrowingClusters': 'update',
    'rerank': 'reranking',
    'MetaPrototypes': 'prototypes',
    'cluster_contrast_loss': 'losses',
    'siamese_consistency_loss': 'losses',
    'soft_weighted_triplet_loss': 'losses',
    'ClusterContrastLoss': 'losses',
    'SiameseConsistencyLoss': 'losses',
    'SoftWeightedTripletLoss': 'losses',
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

if TYPE_CHECKING:  # for editors and type checkers, which do not run `__getattr__`
    from mcl.world import World as World
    from mcl.world import preset as preset
    from mcl.pedworld import render as render
    from mcl.data import load_dataset as load_dataset
    from mcl.images import ImageStore as ImageStore
    from mcl.images import augment_batch as augment_batch
    from mcl.models import build_model as build_model
    from mcl.models import extract_features as extract_features
    from mcl.models import load_weights as load_weights
    from mcl.models import save_weights as save_weights
    from mcl.pretrained import save_pretrained as save_pretrained
    from mcl.pretrained import from_pretrained as from_pretrained
    from mcl.inference import fast_network as fast_network
    from mcl.loading import cached_stores as cached_stores
    from mcl.sampling import split_subsets as split_subsets
    from mcl.sampling import IdentitySampler as IdentitySampler
    from mcl.sampling import CrossSetSampler as CrossSetSampler
    from mcl.approximate import knn as knn
    from mcl.jaccard import jaccard_graph as jaccard_graph
    from mcl.clustering import cluster as cluster
    from mcl.parameters import silhouette as silhouette
    from mcl.estimator import JaccardDBSCAN as JaccardDBSCAN
    from mcl.update import GrowingClusters as GrowingClusters
    from mcl.reranking import rerank as rerank
    from mcl.prototypes import MetaPrototypes as MetaPrototypes
    from mcl.losses import cluster_contrast_loss as cluster_contrast_loss
    from mcl.losses import siamese_consistency_loss as siamese_consistency_loss
    from mcl.losses import soft_weighted_triplet_loss as soft_weighted_triplet_loss
    from mcl.losses import ClusterContrastLoss as ClusterContrastLoss
    from mcl.losses import SiameseConsistencyLoss as SiameseConsistencyLoss
    from mcl.losses import SoftWeightedTripletLoss as SoftWeightedTripletLoss
    from mcl.evaluation import rank_metrics as rank_metrics
    from mcl.evaluation import evaluate as evaluate
    from mcl.config import TrainConfig as TrainConfig
    from mcl.config import FULL as FULL
    from mcl.config import PER_SUBSET as PER_SUBSET
    from mcl.config import SUBSET_MATCHED as SUBSET_MATCHED
    from mcl.config import MCL as MCL
    from mcl.config import MCL_PLUS as MCL_PLUS
    from mcl.config import SUPERVISED as SUPERVISED
    from mcl.config import RECIPES as RECIPES
    from mcl.training import train as train


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f'module mcl has no public name {name!r}; API.md lists them')
    try:
        module = import_module(f'mcl.{PUBLIC[name]}')
    except ModuleNotFoundError as error:
        from mcl.core import EXTRA_OF, missing_package

        package = str(error.name).partition('.')[0]
        if package not in EXTRA_OF:
            raise
        raise ModuleNotFoundError(missing_package(package), name=package) from error
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
