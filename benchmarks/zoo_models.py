"""The table of models for `benchmarks.zoo`: the smallest member of each family that two libraries offer, and our own.

Every entry builds its model with random weights and names the shape of one sample; libraries are imported only when
an entry of theirs is built.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnrewrite.losses import Loss

from . import zoo_small as small

CLASSES = 10
SIZES = (64, 96, 128, 192, 224, 256, 299)
"""Sides of an image, tried in this order until the model takes one."""
LEAST = {"inception_v3": 192, "inception_v4": 192, "mobileone_s0": 128, "swin_v2_t": 256}
"""Smaller images are taken, but say nothing: BatchNorm over two numbers, or padded windows whose vectors are zero, so
that PyTorch's own H v is lost to rounding or is not a number."""


@dataclass(frozen=True)
class Entry:
    """One model: how to build it, one sample's shape (None: the smallest image it takes), and its loss."""

    library: str
    name: str
    build: Callable[[int | None], nn.Module]
    shape: tuple[int, ...] | None = None
    classes: int = CLASSES
    loss: Loss = "cross_entropy"
    axes: tuple[int, ...] = ()  # extra axes of the target: one class for each position
    tokens: int | None = None  # input holds whole numbers below this

    def example(self, batch: int, shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
        """Random input and target of `batch` samples, in float64."""
        g = torch.Generator().manual_seed(seed)
        if self.tokens is None:
            x = torch.randn(batch, *shape, generator=g, dtype=torch.float64)
        else:
            x = torch.randint(self.tokens, (batch, *shape), generator=g)
        return x, torch.randint(self.classes, (batch, *self.axes), generator=g)

    def smallest(self) -> tuple[nn.Module, tuple[int, ...]]:
        """The model in training mode, and the shape of one sample."""
        torch.manual_seed(0)
        if self.shape is not None:
            return self.build(None).train(), self.shape
        for size in SIZES:
            if size < LEAST.get(self.name, 0):
                continue
            try:
                model = self.build(size).train()
                with torch.no_grad():
                    model(torch.randn(2, 3, size, size))
                    # the probe moved running statistics and may have cached position tables: start anew
                return self.build(size).train(), (3, size, size)
            except (
                RuntimeError,
                ValueError,
                AssertionError,
                IndexError,
                TypeError,
                ZeroDivisionError,
            ) as error:
                reason = error
        raise ValueError(f"takes no image of {SIZES[0]} to {SIZES[-1]} pixels: {reason}")


@cache
def library(name: str) -> ModuleType:
    """torchvision or timm; the compiled ops of the former are not needed, only their names."""
    ops = torch.library.Library("torchvision", "FRAGMENT")
    try:
        for op in ("nms", "qnms"):
            ops.define(f"{op}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    except RuntimeError:  # they are there: torchvision's own binaries fit this PyTorch
        pass
    _KEPT.append(ops)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        raise SystemExit(
            f"{package} is needed for these models: install it without dependencies (pip install --no-deps {package})."
            f" ({error})"
        ) from error


_KEPT: list[Any] = []  # a torch.library.Library takes its definitions back when it is collected


def entries() -> Iterator[Entry]:
    """All models of the table."""
    yield from _torchvision()
    yield from _timm()
    yield from _segmentation()
    yield from _video()
    yield from _signal()
    yield from _sequence()


# torchvision ---------------------------------------------------------------------------------------------------

# fmt: off
_TORCHVISION: dict[str, dict[str, Any]] = {
    name: {}
    for name in (
        "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "mnasnet0_5",
        "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "regnet_x_400mf", "regnet_y_400mf",
        "resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "shufflenet_v2_x0_5",
        "squeezenet1_0", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vgg11_bn",
    )
} | {
    "googlenet": {"aux_logits": False, "init_weights": False},
    "inception_v3": {"aux_logits": False, "init_weights": False},
    "vit_b_32": {"image_size": 64},
    "maxvit_t": {"input_size": (224, 224)},
}
# fmt: on


def _torchvision() -> Iterator[Entry]:
    for name, options in _TORCHVISION.items():
        yield Entry("torchvision", name, _of_torchvision("torchvision.models", name, options))
    auxiliary = {"aux_logits": True, "init_weights": False}
    yield Entry(
        "torchvision",
        "googlenet+aux",
        _of_torchvision("torchvision.models", "googlenet", auxiliary),
        loss=with_auxiliaries,
    )


def _of_torchvision(module: str, name: str, options: dict[str, Any]) -> Callable[[int | None], nn.Module]:
    def build(size: int | None) -> nn.Module:
        return getattr(library(module), name)(weights=None, num_classes=CLASSES, **options)

    return build


def with_auxiliaries(output: Any, target: Tensor) -> Tensor:
    """GoogLeNet's training loss: the heads in the middle count for 0.3 each."""
    return F.cross_entropy(output[0], target) + 0.3 * sum(F.cross_entropy(o, target) for o in output[1:])


# timm ----------------------------------------------------------------------------------------------------------

# fmt: off
_TIMM = (
    "resnet18", "resnet18d", "resnet26t", "resnet50c", "resnet50s", "seresnet18", "seresnext26d_32x4d",
    "ecaresnet26t", "resnest14d", "skresnet18", "resnetblur18", "resnetrs50", "resnetaa34d", "resnetv2_18",
    "res2net50_14w_8s", "res2next50", "resnext26ts", "gcresnext26ts", "botnet26t_256", "regnetx_002",
    "regnety_002", "regnetz_005", "hrnet_w18_small", "ghostnet_050", "ghostnetv2_100", "repvgg_a0",
    "mobileone_s0", "repvit_m0_9", "repghostnet_050", "mobilenetv2_035", "mobilenetv3_small_050",
    "mobilenetv4_conv_small_035", "mobilenetv4_hybrid_medium", "efficientnet_b0", "efficientnet_lite0",
    "efficientnetv2_rw_t", "tf_efficientnetv2_b0", "tf_mixnet_s", "mixnet_s", "mnasnet_small", "fbnetv3_b",
    "fbnetc_100", "spnasnet_100", "semnasnet_050", "tinynet_e", "hardcorenas_a", "lcnet_035", "dla34",
    "dla46_c", "densenet121", "inception_v3", "inception_v4", "xception41", "xception41p",
    "inception_next_atto", "nf_resnet26", "nf_regnet_b0", "dm_nfnet_f0", "nfnet_l0", "convnext_atto",
    "convnextv2_atto", "vit_tiny_patch16_224", "deit_tiny_patch16_224", "deit3_small_patch16_224",
    "beit_base_patch16_224", "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "levit_128s",
    "efficientvit_b0", "efficientvit_m0", "mixer_s32_224", "gmixer_12_224", "gmlp_ti16_224",
    "resmlp_12_224", "cspresnet50", "cspdarknet53", "cs3darknet_s", "darknet53", "dpn48b", "vovnet39a",
    "ese_vovnet19b_dw", "selecsls42", "pit_ti_224", "cait_xxs24_224", "coat_tiny", "coat_lite_tiny",
    "poolformer_s12", "convformer_s18", "caformer_s18", "crossvit_9_240", "tresnet_m", "efficientformer_l1",
    "efficientformerv2_s0", "fastvit_t8", "mobilevit_xxs", "mobilevitv2_050", "edgenext_xx_small",
    "volo_d1_224", "xcit_nano_12_p16_224", "twins_svt_small", "pvt_v2_b0", "visformer_tiny",
    "tnt_s_patch16_224", "convmixer_768_32", "hgnetv2_b0", "legacy_seresnet18", "vgg11", "vgg11_bn",
    "nest_tiny", "sequencer2d_s", "focalnet_tiny_srf", "convit_tiny", "gcvit_xxtiny", "hiera_tiny_224",
    "davit_tiny", "mvitv2_tiny", "maxvit_rmlp_pico_rw_256", "coatnet_pico_rw_224", "tiny_vit_5m_224",
    "rexnet_100", "rdnet_tiny", "starnet_s1", "fasternet_t0", "swiftformer_xs", "shvit_s1", "nextvit_small",
)
# fmt: on

_TIMM_DEEP = {  # families whose smallest member has too many alike blocks for a study: fewer of each
    "cait_xxs24_224": {"depth": 2},
    "convmixer_768_32": {"depth": 4},
    "beit_base_patch16_224": {"depth": 2},
    "deit3_small_patch16_224": {"depth": 3},
    "resmlp_12_224": {"num_blocks": 4},
    "gmlp_ti16_224": {"num_blocks": 4},
}


def _timm() -> Iterator[Entry]:
    for name in _TIMM:
        yield Entry("timm", name, _of_timm(name))


def _of_timm(name: str) -> Callable[[int | None], nn.Module]:
    def build(size: int | None) -> nn.Module:
        create = library("timm").create_model
        options = _TIMM_DEEP.get(name, {})
        try:  # models of patches want to know the size of the image
            return create(name, num_classes=CLASSES, img_size=size, **options)
        except TypeError:
            return create(name, num_classes=CLASSES, **options)

    return build


# Segmentation, video, signals, sequences -----------------------------------------------------------------------


def of_segmentation(output: dict[str, Tensor], target: Tensor) -> Tensor:
    """Cross-entropy of every pixel; the auxiliary head counts half, as in torchvision's recipe."""
    loss = F.cross_entropy(output["out"], target)
    return loss + 0.5 * F.cross_entropy(output["aux"], target) if "aux" in output else loss


def _segmentation() -> Iterator[Entry]:
    names = (
        "fcn_resnet50",
        "deeplabv3_resnet50",
        "deeplabv3_mobilenet_v3_large",
        "lraspp_mobilenet_v3_large",
    )
    for name in names:
        for auxiliary in (False, True) if name == "fcn_resnet50" else (False,):
            options: dict[str, Any] = {"weights_backbone": None} | ({"aux_loss": True} if auxiliary else {})
            yield Entry(
                "segmentation",
                name + "+aux" * auxiliary,
                _of_torchvision("torchvision.models.segmentation", name, options),
                (3, 64, 64),
                loss=of_segmentation,
                axes=(64, 64),
            )


def _video() -> Iterator[Entry]:
    clips = dict.fromkeys(("r3d_18", "mc3_18", "r2plus1d_18"), (3, 4, 32, 32))
    clips |= {"s3d": (3, 9, 193, 193), "swin3d_t": (3, 4, 32, 32)}
    for name, shape in clips.items():
        yield Entry("video", name, _of_torchvision("torchvision.models.video", name, {}), shape)


def _own(build: Callable[[], nn.Module]) -> Callable[[int | None], nn.Module]:
    return lambda _: build()


def _signal() -> Iterator[Entry]:
    for build, channels in (
        (small.ResidualSignal, 3),
        (small.TemporalConvolutions, 3),
        (small.SeparableSignal, 3),
        (small.Spectrogram, 1),
    ):
        yield Entry("signal", build.__name__, _own(build), (channels, 40), small.CLASSES)
    yield Entry("signal", "SignalUNet", _own(small.SignalUNet), (3, 40), small.CLASSES, axes=(40,))


def _sequence() -> Iterator[Entry]:
    for kind in (nn.RNN, nn.GRU, nn.LSTM):
        for layers, both in ((1, False), (2, True)):
            name = kind.__name__ + ("2x2" if both else "")
            build = _own(partial(small.Recurrent, kind, layers, both))
            yield Entry("sequence", name, build, (6, 5), small.CLASSES)
    for network in (small.CellLoop, small.ConvRecurrent, small.Translator):
        yield Entry("sequence", network.__name__, _own(network), (6, 5), small.CLASSES)
    yield Entry("sequence", "Tokens", _own(small.Tokens), (6,), small.CLASSES, tokens=11)
    for norm in ("batch", "layer", "rms"):
        for causal in (False, True):
            name = f"Attention-{norm}" + "-causal" * causal
            build = partial(small.Attention, norm, causal)
            yield Entry("sequence", name, _own(build), (6, 5), small.CLASSES)
