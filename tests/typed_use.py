"""The public names as a user with a type checker meets them: read by mypy, never run."""
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_array
from torch.utils.data import DataLoader

import mcl
from mcl import (
    MCL,
    CrossSetSampler,
    IdentitySampler,
    ImageStore,
    JaccardDBSCAN,
    MetaPrototypes,
    SoftWeightedTripletLoss,
    TrainConfig,
    build_model,
    cluster,
    cluster_contrast_loss,
    evaluate,
    extract_features,
    from_pretrained,
    jaccard_graph,
    knn,
    load_dataset,
    rank_metrics,
    rerank,
    save_pretrained,
    split_subsets,
    train,
)


def labels_of_a_folder(folder: Path) -> np.ndarray:
    data = load_dataset(folder)
    store = ImageStore(data.train, size=(64, 32), on_error='skip')
    features: torch.Tensor = extract_features(from_pretrained('source'), store)
    similarities, neighbours = knn(features, 5)
    best: np.ndarray = similarities[:, 0]
    graph: csr_array = jaccard_graph(features.numpy(), eps=0.5)
    assert best.shape == graph.shape[:1] == neighbours.shape[:1]
    estimator: JaccardDBSCAN = JaccardDBSCAN(k1=20).fit(features)
    assert estimator is not None
    return cluster(features, eps='auto', n_clusters=None)


def batches(store: ImageStore, labels: np.ndarray, subsets: list[np.ndarray]) -> list[int]:
    loader: DataLoader[torch.Tensor] = DataLoader(store, batch_sampler=IdentitySampler(labels, 4, 4))
    for images in loader:
        assert images.ndim == 4
    sampler = CrossSetSampler(torch.as_tensor(labels), [0, 1, 1], p=4, k=2, camids=None)
    assert len(split_subsets([0.1, 0.2], 2)) == len(subsets)
    return next(iter(sampler))


def losses(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    prototypes = MetaPrototypes.from_labels(features, labels, temperature=0.1)
    soft: torch.Tensor = prototypes.annotate(features)
    probabilities, places = prototypes.annotate(features, top_k=5)
    loss: torch.Tensor = SoftWeightedTripletLoss(prototypes, [0, 0, 1])(features, labels)
    contrast = cluster_contrast_loss(features, labels, prototypes)
    return contrast + loss + soft.sum() + probabilities[0, places[0]]


def accuracy(query: np.ndarray, gallery: torch.Tensor, people: list[int], cameras: list[int]) -> float:
    metrics = rank_metrics(rerank(query, gallery), people, people, cameras, cameras)
    data = load_dataset('pedworld-tiny', root='worlds')
    return float(metrics.mAP + evaluate(query, gallery, data.query, data.gallery).mAP)


def a_run(config: TrainConfig = MCL) -> Path:
    run = train(config, load_dataset('pedworld-tiny'), 'runs/mine', log_to='csv')
    run.model.load_state_dict(build_model('small', seed=1).state_dict())
    version: str = mcl.__version__
    return save_pretrained(run.model, f'networks/{version}', record=run.record)
