"""Flow matching, its networks and their training: what users may do wrong, and what must not depend on batches or processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import generator_worker as worker
from aimt.core.errors import DataError, ModelFormatError, ProblemError, RunError
from aimt.models.flow.diffusion_transformer import DiffusionTransformer, DiffusionTransformerConfig, load_flow_network
from aimt.models.flow.flow_matching import Condition, FlowMatching, gaussian_loss, sample_flow
from aimt.models.flow.flow_network import FlowMLP, FlowMLPConfig
from aimt.models.flow.mean_flows import MeanFlow
from aimt.models.flow.unet import UNet, UNetConfig
from aimt.models.flow.vae import VAE, VAEConfig
from aimt.train.loop.distributed import Parallel
from aimt.train.networks.generator import GeneratorBatches, GeneratorData, GeneratorSettings, train_generator


def alive(network):
    """A network none of whose branches is silent, as after training."""
    torch.manual_seed(0)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return network


NETWORKS = {
    "mlp": (lambda: FlowMLP(FlowMLPConfig(channels=2, width=16, n_classes=3)), (2,)),
    "unet": (lambda: UNet(UNetConfig(channels=2, width=8, factors=(1, 2), n_classes=3)), (2, 5, 6)),
    "transformer": (lambda: DiffusionTransformer(DiffusionTransformerConfig(channels=2, width=16, n_layer=1, n_classes=3)), (2, 5, 6)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_samples_depend_on_the_seed_alone(name):
    make, shape = NETWORKS[name]
    network = alive(make()).train()
    asked = Condition(torch.arange(6) % 3)
    sample = lambda seed, **options: sample_flow(
        network, (6, *shape), asked, steps=3, guidance=2.0, generator=torch.Generator().manual_seed(seed), **options
    )
    first = sample(1)
    assert torch.equal(sample(1), first) and network.training
    assert torch.allclose(sample(1, batch_size=4), first, atol=1e-5)
    assert not torch.allclose(sample(2), first, atol=1e-2)


def test_guidance_of_one_is_the_condition_and_of_zero_is_none():
    network = alive(NETWORKS["mlp"][0]())
    sample = lambda asked, **options: sample_flow(network, (6, 2), asked, generator=torch.Generator().manual_seed(0), **options)
    asked = Condition(torch.arange(6) % 3)
    assert torch.equal(sample(asked, guidance=1.0), sample(asked))
    assert torch.allclose(sample(asked, guidance=0.0), sample(None), atol=1e-5)
    assert torch.equal(sample(asked.without()), sample(None))


def test_a_mean_flow_needs_a_network_with_a_duration():
    network = alive(NETWORKS["mlp"][0]())
    with pytest.raises(ProblemError, match="knows no duration"):
        sample_flow(network, (6, 2), steps=1, method="mean")
    with pytest.raises(ProblemError, match="knows no duration"):
        train_generator(network, GeneratorData(torch.randn(8, 2)), GeneratorData(torch.randn(8, 2)), objective=MeanFlow(), steps=2)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_the_share_of_jumps_is_kept_in_every_batch(share):
    generator = torch.Generator().manual_seed(0)
    for n in (4, 16, 64):
        draw = MeanFlow(share=share).draw((n, 2), generator)
        assert int((draw.duration > 0).sum()) == round(share * n)
        assert (draw.time >= 0).all() and (draw.time + draw.duration <= 1).all()


def test_the_known_loss_is_that_of_uniform_times_too():
    sigma = torch.tensor([0.3, 1.0, 2.0])
    t = torch.linspace(0.0005, 0.9995, 1000)[:, None]
    by_hand = (sigma**2 / (t**2 * sigma**2 + (1 - t) ** 2)).mean()
    assert gaussian_loss(sigma, FlowMatching(std=0.0)) == pytest.approx(float(by_hand), rel=1e-3)


def test_damaged_files_are_refused(tmp_path):
    network = NETWORKS["unet"][0]()
    network.save_pretrained(tmp_path)
    assert type(load_flow_network(tmp_path)) is UNet
    config = tmp_path / "config.json"
    good = config.read_text()
    for change in ({"width": 1 << 40}, {"width": -8}, {"factors": "12"}, {"factors": []}, {"dimensions": 7}, {"unknown": 1}, {"width": 16}):
        config.write_text(json.dumps(json.loads(good) | change))
        with pytest.raises(ModelFormatError):
            load_flow_network(tmp_path)
    config.write_text(good)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ModelFormatError):
        load_flow_network(tmp_path)
    VAE(VAEConfig(width=8)).save_pretrained(tmp_path / "vae")
    with pytest.raises(ModelFormatError, match="VAE"):
        load_flow_network(tmp_path / "vae")


def test_batches_cover_every_row_and_bytes_become_numbers():
    data = GeneratorData(torch.arange(10, dtype=torch.uint8)[:, None], torch.arange(10))
    batches = GeneratorBatches(data, 4, FlowMatching(), seed=5)
    seen = torch.cat([next(batches)["label"] for _ in range(5)])
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))
    batches.load_state_dict(batches.state_dict() | {"step": 1})
    assert torch.equal(next(batches)["label"], seen[4:8])
    with pytest.raises(RunError, match="n_rows"):
        batches.load_state_dict({"step": 1, "seed": 5, "batch_size": 4, "n_rows": 11})
    big = next(GeneratorBatches(data, 25, FlowMatching()))  # Larger than the data
    assert len(big["x"]) == 25 and float(big["x"].max()) == pytest.approx(9 / 127.5 - 1)


def test_data_that_is_not_finite_stops_the_training():
    data = worker.data(16, 0)
    data.x[3, 0, 0, 0] = float("nan")
    network = UNet(UNetConfig(width=8, factors=(1,), n_classes=2))
    with pytest.raises((DataError, RunError)):
        train_generator(network, data, worker.data(8, 1), steps=4, settings=GeneratorSettings(batch_size=16), precision="fp32")


def test_a_time_limit_is_kept():
    network = UNet(UNetConfig(width=8, factors=(1,), n_classes=2))
    seconds = [0.0]

    def clock() -> float:  # Every look at the clock is a tenth of a second later
        seconds[0] += 0.1
        return seconds[0]

    settings = GeneratorSettings(batch_size=8, n_draws=8, evaluations=1)
    trained = train_generator(network, worker.data(20, 0), worker.data(8, 1), time_limit=5.0, clock=clock, settings=settings)
    assert 35 <= trained.measured["steps"] <= 50


def test_two_processes_train_as_one(tmp_path):
    torch.set_num_threads(1)
    one = worker.curve(Parallel())
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        worker.__file__,
        str(tmp_path / "two.json"),
    ]
    done = subprocess.run(command, timeout=600, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    two = json.loads(Path(tmp_path / "two.json").read_text())
    assert two["loss"] == pytest.approx(one["loss"], rel=2e-5) and two["valid"] == pytest.approx(one["valid"], rel=2e-5)
    assert two["weights"] == pytest.approx(one["weights"], rel=1e-4, abs=2e-3)  # Adam enlarges the rounding of biases without a gradient
