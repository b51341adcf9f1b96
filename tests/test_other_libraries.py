"""Parts of this library in the hands of others: a plain DataLoader, pytorch-metric-learning's trainers."""
import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler, StackDataset

from mcl.images import ImageStore, augment_batch, normalise
from mcl.losses import ClusterContrastLoss, SiameseConsistencyLoss, SoftWeightedTripletLoss
from mcl.models import build_model, extract_features
from mcl.prototypes import MetaPrototypes
from mcl.sampling import CrossSetSampler, IdentitySampler, label_spaces


@pytest.fixture(scope='module')
def labelled(tiny_stores):
    "The training images, and their people numbered from 0."
    store = tiny_stores.train
    return store, np.unique([sample.pid for sample in store.samples], return_inverse=True)[1]


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('cache_bytes', [2**30, 0])
def test_a_plain_data_loader_takes_store_and_sampler(labelled, workers, cache_bytes):
    store, people = labelled
    images = ImageStore(store.samples, cache_bytes=cache_bytes, progress=False)
    sampler = IdentitySampler(people, 4, 3, seed=7)
    assert isinstance(images, Dataset) and isinstance(sampler, (Sampler, BatchSampler))
    loader = DataLoader(StackDataset(images, people), batch_sampler=sampler, num_workers=workers)
    for number in range(2):
        expected = list(sampler.batches(number))
        assert len(loader) == len(expected)
        for (batch, labels), indices in zip(loader, expected, strict=True):
            assert torch.equal(batch, store.batch(indices))
            assert labels.tolist() == people[indices].tolist()


def test_a_loader_of_two_processes_sees_cross_set_batches(labelled):
    store, _ = labelled
    rng = np.random.default_rng(0)
    nearest, subsets = rng.integers(0, 6, len(store)), np.arange(len(store)) % 3 + 2
    sampler = CrossSetSampler(nearest, subsets, 4, 2, seed=1)
    loader = DataLoader(store, batch_sampler=sampler, num_workers=2)
    for batch, indices in zip(loader, list(sampler.batches(0)), strict=True):
        assert torch.equal(batch, store.batch(indices))


def losses_and_samplers(features, people):
    "Each loss with labels and batches that fit it."
    prototypes = MetaPrototypes.from_labels(features, torch.as_tensor(people), temperature=0.1)
    subsets = np.arange(len(people)) % 3
    spaces = label_spaces(prototypes.annotate(features), subsets)
    subset_of_label = np.array([subsets[spaces == label][0] for label in range(spaces.max() + 1)])
    single = np.arange(len(people))
    return {
        'contrast': (ClusterContrastLoss(prototypes), people, IdentitySampler(people, 4, 4)),
        'triplet': (
            SoftWeightedTripletLoss(prototypes, subset_of_label),
            spaces,
            CrossSetSampler(prototypes.annotate(features), subsets, 4, 2),
        ),
        'consistency': (SiameseConsistencyLoss(prototypes), single, IdentitySampler(single, 8, 2)),
    }


@pytest.mark.parametrize('name', ['contrast', 'triplet', 'consistency'])
def test_a_trainer_of_pytorch_metric_learning(labelled, name):
    trainers = pytest.importorskip('pytorch_metric_learning.trainers')
    store, people = labelled
    model = build_model('small')
    loss, labels, sampler = losses_and_samplers(extract_features(model, store, progress=False), people)[name]
    before = loss.prototypes.centroids.clone()
    weights = model.state_dict()['neck.weight'].clone()
    seen, generator = [], torch.Generator().manual_seed(0)
    trainer = trainers.MetricLossOnly(
        models={'trunk': model},
        optimizers={'trunk_optimizer': torch.optim.Adam(model.parameters(), 1e-3)},
        batch_size=sampler.batch_size,
        loss_funcs={'metric_loss': loss},
        dataset=StackDataset(store, torch.as_tensor(labels)),
        sampler=sampler,
        iterations_per_epoch=6,
        data_device=torch.device('cpu'),
        dataloader_num_workers=0,
        data_and_label_getter=lambda batch: (normalise(augment_batch(batch[0], generator)), batch[1]),
        end_of_iteration_hook=lambda trainer: seen.append(trainer.losses['metric_loss'].item()),
    )
    trainer.train(num_epochs=1)
    assert len(seen) == 6 and np.isfinite(seen).all() and max(seen) > 0
    assert not torch.equal(weights, model.state_dict()['neck.weight'])
    assert torch.equal(before, loss.prototypes.centroids) == (name != 'contrast')
