"""Networks with a linear map that runs as a module: found by itself, or named."""

import torch
from support.heads_parts import IGNORED, ROWS, VOID, C, D, Head, balanced, truth_of
from torch import nn
from torch.nn import functional as F


class Plain(Head):
    pass


class Auxiliary(Head):
    refused = "classifier"

    def __init__(self):
        super().__init__()
        self.exit = nn.Linear(D, C)

    def loss(self, batch):
        h, y = self.body(batch[0]), batch[1]
        return F.cross_entropy(self.head(h), y) + 0.3 * F.cross_entropy(self.exit(h), y)


class Fixed(Head):
    refused = "classifier"

    def __init__(self):
        super().__init__()
        self.head.requires_grad_(False)


class OtherLinear(nn.Module):
    """As in packages with layers of their own."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.weight = nn.Parameter(0.3 * torch.randn(out_channels, in_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x):
        return x @ self.weight.t() + self.bias


class Other(Head):
    refused = "classifier"

    def __init__(self):
        super().__init__()
        self.head = OtherLinear(D, C)


class Maps(Head):
    """A body of feature maps."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, D, 3, padding=1), nn.ReLU())
        self.head = nn.Conv2d(D, C, 1)

    def batch(self):
        y = balanced(6, 5, 4)
        return (0.5 * torch.randn(y.shape) + y)[:, None], y

    def truth(self, batch):
        return truth_of(self.body(batch[0]).movedim(1, -1), batch[1], self.head)


class OnePosition(Maps):
    refused = "classifier"

    def batch(self):
        y = balanced(ROWS)
        return torch.randn(ROWS, 1, 4, 4) + y[:, None, None, None], y

    def logits(self, batch):
        return self.head(self.body(batch[0]).mean((2, 3), keepdim=True)).flatten(1)

    def truth(self, batch):
        return truth_of(self.body(batch[0]).mean((2, 3)), batch[1], self.head)


class MeanOfMaps(OnePosition):
    """Pools after the head, as for class activation maps."""

    refused = "classifier"

    def logits(self, batch):
        return self.head(self.body(batch[0])).mean((2, 3))


class Segmentation(Maps):
    refused = "classifier"


class Void(Maps):
    def batch(self):
        x, y = super().batch()
        return x, torch.where(torch.rand(y.shape) < 0.2, VOID, y)

    def loss(self, batch):
        return F.cross_entropy(self.logits(batch), batch[1], ignore_index=VOID)

    def truth(self, batch):
        x, y = batch
        return super().truth((x, torch.where(y == VOID, IGNORED, y)))


class Upsampled(Maps):
    """Decides at half the resolution of its labels."""

    def __init__(self):
        super().__init__()
        self.body[0] = nn.Conv2d(1, D, 3, stride=2, padding=1)

    def batch(self):
        y = balanced(6, 3, 4).repeat_interleave(2, 1).repeat_interleave(2, 2)
        return (0.3 * torch.randn(y.shape) + 3 * y)[:, None], y

    def logits(self, batch):
        return F.interpolate(self.head(self.body(batch[0])), scale_factor=2)

    def truth(self, batch):
        x, y = batch
        return super().truth((x, y[:, ::2, ::2]))


class Adapted(Head):
    """Of peft; skipped where that is not installed."""

    package = "peft"

    def adapt(self, **settings):
        import peft

        # B starts at zero, which would make W the one below
        config = peft.LoraConfig(r=2, init_lora_weights=False, **settings)
        peft.inject_adapter_in_model(config, self)


class Lora(Adapted):
    refused = "classifier"

    def __init__(self):
        super().__init__()
        self.adapt(target_modules=["head"])

    def truth(self, batch):
        below, (low,), (high,) = (
            self.head.base_layer,
            *(parts.values() for parts in (self.head.lora_A, self.head.lora_B)),
        )
        weight = below.weight + self.head.scaling["default"] * high.weight @ low.weight
        h, y = self.body(batch[0]), batch[1]
        return truth_of(h, y, weight, F.linear(h, weight, below.bias))._replace(bias=below.bias)


class Saved(Adapted):
    def __init__(self):
        super().__init__()
        self.body[0] = nn.Linear(5, D)
        self.adapt(target_modules=["body.0"], modules_to_save=["head"])

    def truth(self, batch):
        return truth_of(self.body(batch[0]), batch[1], self.head.modules_to_save["default"])
