"""What the processes of tests/test_flow.py run: ``torchrun --nproc-per-node 2 tests/generator_worker.py FILE``."""

import json
import sys
from pathlib import Path

import torch

from aimt.models.flow.unet import UNet, UNetConfig
from aimt.train.loop.distributed import Parallel
from aimt.train.networks.generator import GeneratorData, GeneratorSettings, train_generator


def data(n: int, seed: int) -> GeneratorData:
    """Bright squares, left (class 0) or right (class 1)."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(2, (n,), generator=generator)
    x = 0.2 * torch.randn(n, 1, 6, 6, generator=generator) - 1
    x[label == 0, :, 1:5, :3] += 2
    x[label == 1, :, 1:5, 3:] += 2
    return GeneratorData(x, label)


def curve(parallel: Parallel) -> dict[str, list[float]]:
    """Losses of a training, and its weights at the end."""
    torch.manual_seed(0)
    network = UNet(UNetConfig(width=8, factors=(1, 2), n_classes=2))
    settings = GeneratorSettings(batch_size=8, evaluations=2, n_draws=16)
    options = {"steps": 6, "precision": "fp32", "device": "cpu", "settings": settings, "parallel": parallel}
    trained = train_generator(network, data(20, 0), data(16, 1), **options)
    weights = [p.double().abs().sum().item() for p in network.parameters()]
    return {
        "loss": [row["loss"] for row in trained.history.steps],
        "valid": [e["valid_loss"] for e in trained.history.evals],
        "weights": weights,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    parallel = Parallel.start()
    found = curve(parallel)
    if parallel.main:
        Path(sys.argv[1]).write_text(json.dumps(found))
