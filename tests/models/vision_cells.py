"""Models of images: timm, torchvision, segmentation_models_pytorch."""

from typing import Any

import torch
from model_cells import (
    CLASSES,
    Model,
    Thin,
    Truth,
    cross_entropy,
    head_at,
    images,
    images_of,
    labels_in_turn,
    rows_and_loaders,
    second,
    weight_at,
)
from torch import Tensor, nn


def timm_model(name: str, **settings: Any) -> Thin:
    import timm

    return Thin(timm.create_model(name, num_classes=CLASSES, **settings), cross_entropy)


def distilled() -> Thin:
    """The mean of two heads, of one token each, is what it puts out."""
    return timm_model(
        "deit_tiny_distilled_patch16_224", img_size=32, embed_dim=24, depth=1, num_heads=2
    )


def of_convolution_head() -> Thin:
    from timm.models.resnetv2 import ResNetV2

    return Thin(ResNetV2((1, 1), channels=(128, 256), stem_chs=32, num_classes=CLASSES), cross_entropy)


def torchvision_resnet() -> Thin:
    from torchvision.models.resnet import BasicBlock, ResNet

    return Thin(ResNet(BasicBlock, [1, 1, 1, 1], num_classes=CLASSES), cross_entropy)


def torchvision_vit() -> Thin:
    from torchvision.models import VisionTransformer

    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
    net = VisionTransformer(image_size=32, patch_size=16, num_classes=CLASSES, **sizes)
    return Thin(net, cross_entropy)


def squeezenet() -> Thin:
    """A 1x1 convolution, then ReLU, then the mean over all places."""
    from torchvision.models import squeezenet1_1

    return Thin(squeezenet1_1(num_classes=CLASSES), cross_entropy)


def decided_by_network(batch: Any, outputs: Any) -> Tensor:
    return outputs["logits"].argmax(1)


# Segmentation: each pixel has a label


def pixels(labels_too: bool = False) -> Any:
    shades = torch.arange(36 * 16 * 16).reshape(36, 4, 4, 16).flatten(2) % 7 // 3
    y = shades.reshape(36, 1, 16, 16).float()
    y = nn.functional.interpolate(y, scale_factor=2).long()[:, 0]
    whole = labels_in_turn()
    x = images_of(whole, 32) + y[:, None]
    # all pixels of the validation fit into the sample
    return rows_and_loaders(x[:28], y[:28], *([whole[:28]] if labels_too else []))


def segmentation(kind: str, **settings: Any) -> Thin:
    import segmentation_models_pytorch as smp

    net = getattr(smp, kind)("tu-test_efficientnet", encoder_weights=None, classes=CLASSES, **settings)
    return Thin(net, cross_entropy)


def unet_of_two_heads() -> Thin:
    """Its second head tells what a whole image is."""
    module = segmentation("Unet", aux_params={"classes": CLASSES, "dropout": None})

    def step(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
        x, pixels, whole = batch
        masks, logits = module(x)
        loss = nn.functional.cross_entropy
        return loss(masks, pixels) + loss(logits, whole), masks

    module.step = step
    return module


def channels_last(x: Tensor) -> Tensor:
    """Each place a row."""
    return x.movedim(1, -1)


def every_fourth_pixel(batch: Any) -> Tensor:
    return batch[1][:, ::4, ::4]


SEGMENTATION_HEAD = "net.segmentation_head.0"
AT_EACH_PIXEL = head_at(SEGMENTATION_HEAD, pool=lambda x, batch: channels_last(x))
AT_EVERY_FOURTH = head_at(SEGMENTATION_HEAD, every_fourth_pixel, pool=lambda x, batch: channels_last(x))
OF_THE_DECODER = Truth(
    ("net.decoder",),
    lambda calls, batch: (channels_last(calls["net.decoder"][-1].output), second(batch), None),
    None,
)
CONVOLUTION_HEAD = head_at("net.head.fc", pool=lambda x, batch: x.flatten(1))


def _squeezed(calls, batch):
    [head], [net] = calls["net.classifier.1"], calls["net"]
    return head.x.mean((2, 3)), batch[1], net.output.argmax(1)


SQUEEZED = Truth(("net.classifier.1", "net"), _squeezed, weight_at("net.classifier.1"))

VISION = (
    Model("timm ResNet", "timm", lambda: timm_model("test_resnet"), images, head_at("net.fc")),
    Model("timm ViT", "timm", lambda: timm_model("test_vit", img_size=32), images, head_at("net.head")),
    Model("timm ConvNeXt", "timm", lambda: timm_model("test_convnext"), images, head_at("net.head.fc")),
    Model(
        "timm distilled DeiT", "timm", distilled, images, head_at("net.head"),
        refused="several could be it: 'net.head.weight'", remedy={"classifier": "net.head"},
    ),
    Model(
        "timm 1x1 convolution", "timm", of_convolution_head, images, CONVOLUTION_HEAD,
        refused="'net.head.fc'", remedy={"classifier": "net.head.fc"},
    ),
    Model("torchvision ResNet", "torchvision", torchvision_resnet, images, head_at("net.fc")),
    Model("torchvision ViT", "torchvision", torchvision_vit, images, head_at("net.heads.head")),
    Model(
        "torchvision SqueezeNet", "torchvision", squeezenet, images, SQUEEZED,
        refused="'net.classifier.1'",
        remedy={
            "classifier": "net.classifier.1", "pool": "spatial_mean",
            "predicted": "vision_cells.decided_by_network",
        },
        says="Active Dropout directly precedes",
    ),
    Model(
        "smp Linknet", "segmentation_models_pytorch", lambda: segmentation("Linknet"), pixels,
        AT_EACH_PIXEL, refused=SEGMENTATION_HEAD, remedy={"classifier": SEGMENTATION_HEAD},
    ),
    Model(
        "smp FPN", "segmentation_models_pytorch", lambda: segmentation("FPN", decoder_dropout=0),
        pixels, AT_EVERY_FOURTH,
        refused=SEGMENTATION_HEAD,
        remedy={"classifier": SEGMENTATION_HEAD, "target": "vision_cells.every_fourth_pixel"},
    ),
    Model(
        "smp Unet", "segmentation_models_pytorch", lambda: segmentation("Unet"), pixels, OF_THE_DECODER,
        refused="classifier=False",
        remedy={"classifier": False, "features": "net.decoder", "num_classes": CLASSES},
    ),
    Model(
        "smp Unet, as many channels as pixels in a row", "segmentation_models_pytorch",
        lambda: segmentation("Unet", decoder_channels=(64, 32, 32, 32, 32)), pixels, OF_THE_DECODER,
        refused="classifier=False",
        remedy={
            "classifier": False, "features": "net.decoder", "num_classes": CLASSES,
            "pool": "pixels",
        },
    ),
    Model(
        "smp Unet with a second head", "segmentation_models_pytorch", unet_of_two_heads,
        lambda: pixels(labels_too=True), head_at("net.classification_head.3", lambda batch: batch[2]),
        refused="where 1 and 2 could be",
        remedy={"classifier": "net.classification_head.3", "target": 2},
    ),
)  # fmt: skip
