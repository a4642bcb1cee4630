"""The reference networks are the published ones, and the digits are all there."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bnrewrite import models
from bnrewrite.models import MODELS, densenet_bc_cifar, digits, example_for, lenet5
from bnrewrite.models.layers import StochasticDepth, initialise
from bnrewrite.models.resnet import SubsampleAndPad


def densenet_bc_parameters(n: int, k: int) -> int:
    """CIFAR DenseNet-BC with n layers a block and growth rate k, counted from the paper's description."""
    c = 2 * k
    total = 3 * 9 * c  # the first convolution
    for block in range(3):
        for _ in range(n):
            total += (2 * c + c * 4 * k) + (2 * 4 * k + 4 * k * 9 * k)  # BN, 1x1; BN, 3x3
            c += k
        if block < 2:
            total += 2 * c + c * (c // 2)  # BN, 1x1
            c //= 2
    return total + 2 * c + (c * 10 + 10)  # BN, linear


# Parameters of the default network. The ImageNet ones are published; so is 0.27M for ResNet-20 (table 6 of
# the paper). Without a published count: layer by layer, its weights and two a channel for its BatchNorm.
PARAMETERS = {
    "mlp_bn": (64 * 64 + 128) + (64 * 32 + 64) + (32 * 10 + 10),
    "lenet5": (150 + 12) + (2_400 + 32) + (48_000 + 240) + (10_080 + 168) + 850,
    "resnet8_digits": (144 + 32) + (4_608 + 64) + (13_824 + 128) + (55_296 + 256) + 650,
    "resnet8": (432 + 32) + (4_608 + 64) + (13_824 + 128) + (55_296 + 256) + 650,
    "resnet20": 269_722,
    "densenet_bc_cifar": densenet_bc_parameters(6, 12),
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "vgg11_bn": 132_868_840,
    "vgg16_bn": 138_365_992,
    "mobilenet_v2": 3_504_872,
    "efficientnet_b0": 5_288_548,
    "densenet121": 7_978_856,
}

# Published multiply-adds in units of 1e9 at the published image size, to the digits printed: these see the
# strides and the groups, which parameter counts do not.
GIGA_MULTIPLY_ADDS = {
    "resnet20": (32, 0.041),
    "resnet18": (224, 1.81),
    "resnet50": (224, 4.09),  # 3.8 with the stride in the first 1x1 convolution
    "vgg11_bn": (224, 7.61),
    "vgg16_bn": (224, 15.47),
    "mobilenet_v2": (224, 0.30),
    "efficientnet_b0": (224, 0.39),
    "densenet121": (224, 2.83),
}

# Names under which published checkpoints keep their tensors: a few for each family, with shapes.
CHECKPOINT_NAMES = {
    "resnet18": {"layer4.0.downsample.0.weight": (512, 256, 1, 1), "layer1.1.bn2.weight": (64,)},
    "resnet50": {"layer3.5.conv3.weight": (1024, 256, 1, 1), "fc.weight": (1000, 2048)},
    "vgg11_bn": {"features.25.weight": (512, 512, 3, 3), "classifier.6.bias": (1000,)},
    "vgg16_bn": {"features.41.running_var": (512,), "classifier.0.weight": (4096, 25088)},
    "mobilenet_v2": {
        "features.1.conv.1.weight": (16, 32, 1, 1),
        "features.17.conv.1.0.weight": (960, 1, 3, 3),
        "features.18.1.running_mean": (1280,),
    },
    "efficientnet_b0": {
        "features.1.0.block.1.fc1.weight": (8, 32, 1, 1),
        "features.6.3.block.2.fc2.bias": (1152,),
        "classifier.1.weight": (1000, 1280),
    },
    "densenet121": {
        "features.denseblock3.denselayer24.conv2.weight": (32, 128, 3, 3),
        "features.transition3.conv.weight": (512, 1024, 1, 1),
        "features.norm5.bias": (1024,),
    },
}


def on_meta(name: str) -> nn.Module:
    """The full-size network without memory for its weights."""
    with torch.device("meta"):
        return MODELS[name].factory()


def multiply_adds(model: nn.Module, x: Tensor) -> int:
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, (nn.Conv2d, nn.Linear))
        total += output.numel() * module.weight[0].numel()  # weight[0]: what one output number reads

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(count)
    model(x)
    return total


def test_every_network_is_listed_and_public():
    assert set(MODELS) == set(PARAMETERS)
    for name, entry in MODELS.items():
        assert getattr(models, name) is entry.factory
        assert name in models.__all__


@pytest.mark.parametrize("name", MODELS)
def test_default_network(name: str):
    """`factory()` without arguments: number of parameters, shape of the output."""
    entry, model = MODELS[name], on_meta(name)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    x, y = entry.example()
    assert x.shape == (entry.batch, *entry.input_shape)
    assert y.shape == (entry.batch,)
    assert model(x.to("meta")).shape == (entry.batch, entry.num_classes)


@pytest.mark.parametrize("name", GIGA_MULTIPLY_ADDS)
def test_multiply_adds(name: str):
    size, published = GIGA_MULTIPLY_ADDS[name]
    digits_printed = 3 if published < 0.1 else 2
    counted = multiply_adds(on_meta(name).eval(), torch.empty(1, 3, size, size, device="meta"))
    assert round(counted / 1e9, digits_printed) == published


@pytest.mark.parametrize("name", CHECKPOINT_NAMES)
def test_checkpoint_names(name: str):
    shapes = {key: tuple(tensor.shape) for key, tensor in on_meta(name).state_dict().items()}
    for key, shape in CHECKPOINT_NAMES[name].items():
        assert shapes[key] == shape


def test_densenet_bc_of_100_layers():
    """The paper's table 2 gives 0.8M for depth 100 and growth rate 12."""
    with torch.device("meta"):
        model = densenet_bc_cifar(depth=100)
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == densenet_bc_parameters(16, 12)
    assert round(parameters / 1e6, 1) == 0.8
    assert sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in model.modules()) == 100


@pytest.mark.parametrize("name", MODELS)
def test_gradient_at_initialisation(name: str):
    """Train mode, float64: loss near log 10, every weight gets a gradient of a sane size."""
    entry = MODELS[name]
    model = entry.build_small(dtype=torch.float64).train()
    x, y = entry.example(dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # dropout and stochastic depth
        logits = model(x)
    loss = nn.functional.cross_entropy(logits, y)
    loss.backward()

    assert logits.shape == (entry.batch, 10)
    assert logits.dtype == torch.float64
    assert abs(loss.item() - math.log(10)) < 0.25
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        if parameter.dim() > 1:
            assert 1e-3 < parameter.grad.norm() < 1e4, key
    for statistic in model.buffers():
        assert statistic.isfinite().all()


def test_vgg_bias_before_batch_norm_has_no_gradient():
    entry = MODELS["vgg11_bn"]
    model = entry.build_small(dtype=torch.float64).train()
    x, y = entry.example(dtype=torch.float64)
    nn.functional.cross_entropy(model(x), y).backward()
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 8
    for convolution in convolutions:
        # A sum of some thousand float64 numbers that cancel.
        assert convolution.bias.grad.norm() < 1e-11 * convolution.weight.grad.norm()


@pytest.mark.parametrize("name", ["vgg11_bn", "mobilenet_v2", "efficientnet_b0"])
def test_random_in_training_and_only_there(name: str):
    model = MODELS[name].build_small(dtype=torch.float64)
    x, _ = MODELS[name].example(dtype=torch.float64)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.train()
        assert not torch.equal(model(x), model(x))
        model.eval()
        assert torch.equal(model(x), model(x))


def test_lenet_sizes():
    x = torch.zeros(2, 3, 32, 32)
    assert lenet5(in_channels=3, image_size=32)(x).shape == (2, 10)
    with pytest.raises(ValueError, match="28x28 or 32x32 pixels, not 30x30"):
        lenet5(image_size=30)


def test_densenet_depth_that_does_not_fit():
    for depth in (4, 41):
        with pytest.raises(ValueError, match=rf"6 n \+ 4 layers.* not {depth}"):
            densenet_bc_cifar(depth=depth)


def test_subsample_and_pad():
    x = torch.arange(2 * 3 * 5 * 4, dtype=torch.float64).reshape(2, 3, 5, 4)
    y = SubsampleAndPad(stride=2, extra_channels=2)(x)
    assert y.shape == (2, 5, 3, 2)
    assert torch.equal(y[:, :3], x[:, :, [0, 2, 4]][:, :, :, [0, 2]])
    assert not y[:, 3:].any()


def test_stochastic_depth():
    drop = StochasticDepth(0.25)
    x = torch.rand(4000, 2, 3, 3, dtype=torch.float64) + 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        y = drop.train()(x)
    survived = y[:, 0, 0, 0] != 0
    assert torch.allclose(y[survived], x[survived] / 0.75, rtol=1e-15, atol=0)
    assert not y[~survived].any()
    assert abs(survived.double().mean() - 0.75) < 4 * math.sqrt(0.75 * 0.25 / 4000)  # four standard errors
    assert drop.eval()(x) is x
    with pytest.raises(ValueError, match=r"drop probability in \[0, 1\), not 1"):
        StochasticDepth(1.0)


@pytest.mark.parametrize(
    ("layer", "std"),
    [
        (nn.Conv2d(64, 128, 3), math.sqrt(2 / (9 * 128))),
        (nn.Conv2d(4096, 4096, 3, groups=4096), math.sqrt(2 / 9)),
        (nn.Linear(256, 256), 0.01),
    ],
    ids=["convolution", "depthwise", "linear"],
)
def test_initialisation(layer: nn.Conv2d | nn.Linear, std: float):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        initialise(layer)
    n = layer.weight.numel()
    assert abs(layer.weight.std().item() / std - 1) < 4 / math.sqrt(2 * n)  # four standard errors
    assert abs(layer.weight.mean().item() / std) < 4 / math.sqrt(n)
    assert layer.bias is not None
    assert not layer.bias.any()


def test_example_is_reproducible():
    entry = MODELS["resnet18"]
    before = torch.get_rng_state()
    x, y = entry.example(3, dtype=torch.float64, seed=5)
    x32, y32 = example_for("resnet18", 3, seed=5)
    assert torch.equal(x32, x.float())
    assert x32.dtype == torch.float32
    assert torch.equal(y32, y)
    assert y.dtype == torch.int64
    assert not torch.equal(entry.example(3, dtype=torch.float64, seed=6)[0], x)
    labels = entry.example(200)[1]
    assert sorted(labels.unique().tolist()) == list(range(10))  # also labels of the ten-class network

    a, b, c = (entry.build_small(seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["conv1.weight"], c["conv1.weight"])
    assert torch.equal(torch.get_rng_state(), before)


def test_example_of_an_unknown_network():
    with pytest.raises(ValueError, match=r"no reference network is called 'resnet19'.*resnet18"):
        example_for("resnet19")


@pytest.mark.parametrize("seed", [0, 1])
def test_digits_are_all_there_once(seed: int):
    """Training and test set together are scikit-learn's digits, each image with its label, none twice."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    splits = [digits(split, dtype=torch.float64, seed=seed) for split in ("train", "test")]
    x, y = (torch.cat(parts) for parts in zip(*splits, strict=True))
    assert x.shape == (1797, 1, 8, 8)
    assert y.dtype == torch.int64
    gray = ((x - x.min()) / (x.max() - x.min()) * 16).round().long()  # pixels are whole numbers 0 to 16
    ours = [(*image, label) for image, label in zip(gray.flatten(1).tolist(), y.tolist(), strict=True)]
    theirs = [(*map(int, image), int(label)) for image, label in zip(bunch.data, bunch.target, strict=True)]
    assert len(set(theirs)) == 1797  # so that equal lists mean disjoint sets
    assert sorted(ours) == sorted(theirs)


def test_digits_split():
    (x, y), (x_test, y_test) = (digits(split, dtype=torch.float64) for split in ("train", "test"))
    for label in range(10):
        n, n_test = (y == label).sum().item(), (y_test == label).sum().item()
        assert n_test == round(0.2 * (n + n_test))
    # Standardised by the training pixels alone.
    assert abs(x.mean()) < 1e-12
    assert abs(x.square().mean() - 1) < 1e-12
    assert abs(x_test.mean()) > 1e-6
    assert y[:100].unique().numel() == 10  # shuffled: not sorted by class


def test_digits_are_reproducible():
    before = torch.get_rng_state()
    x, y = digits()
    assert x.dtype == torch.float32
    assert torch.equal(x, digits("train", seed=0)[0])
    assert torch.equal(x, digits("train", dtype=torch.float64)[0].float())
    assert not torch.equal(y, digits("train", seed=1)[1])
    assert torch.equal(torch.get_rng_state(), before)


def test_digits_refusals(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match='must be "train" or "test", not \'valid\''):
        digits("valid")
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)  # as if not installed
    with pytest.raises(ImportError, match=r"scikit-learn.*pip install bnrewrite\[demo\]"):
        digits()


@pytest.mark.parametrize("name", ["mlp_bn", "resnet8_digits"])
def test_networks_learn_the_digits(name: str):
    (x, y), (x_test, y_test) = digits("train"), digits("test")
    model = MODELS[name].build_small().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        for x_batch, y_batch in zip(x.split(64), y.split(64), strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x_batch), y_batch).backward()
            optimizer.step()
    with torch.no_grad():
        accuracy = (model.eval()(x_test).argmax(1) == y_test).double().mean().item()
    assert accuracy > 0.9, accuracy


def test_folder_refuses_to_be_a_top_level_package(monkeypatch: pytest.MonkeyPatch):
    """The folder stands at the top of a checkout, where `import models` would load all classes twice."""
    folder = Path(models.__file__).resolve().parent
    assert folder.name == "models"
    monkeypatch.syspath_prepend(str(folder.parent))
    with pytest.raises(ImportError, match=r"imported as 'models'.*import bnrewrite\.models"):
        importlib.import_module("models")
    assert "models" not in sys.modules
