"""LHC-Net in PyTorch: a reference in one file, which needs nothing but torch.

    from lhc_pytorch import load

    net, about = load("LHC.pt")                      # made by Export.py --format pytorch
    probabilities = net(images)                      # (B, S, S, 3), grey levels 0...255 -> (B, 7)
    print(about["classes"][probabilities[0].argmax()])

or the layer alone, in a network of your own:

    layer = LHC(channels=64, size=56, heads=8, dim=196)
    y = layer(x)                                     # x and y: (B, 64, 56, 56)

Paper: https://arxiv.org/abs/2111.07224
"""

import torch
from torch import nn
from torch.nn import functional as F

FILTERS = (64, 128, 256, 512)
UNITS = (3, 4, 6, 3)


def pad_same(x, size, value=0.0):
    """Pad (B, C, H, W) for windows of `size` x `size` that give H x W again, as Keras does."""
    before, after = (size - 1) // 2, size // 2
    return F.pad(x, (before, after, before, after), value=value)


def average_pool(x, size):
    """Average over the pixels of each window that exist: (B, C, H, W) -> the same shape."""
    inside = torch.ones_like(x[:1, :1])
    sums, shares = (F.avg_pool2d(pad_same(part, size), size, 1) for part in (x, inside))
    return sums / shares


class LHC(nn.Module):
    """Local multi-Head Channel self-attention: (B, channels, size, size) -> the same shape.

    The size * size positions are cut into `heads` slices of length l. In each, the channels,
    vectors of length l, attend to each other. dim: d, the length of queries and keys. norm_c: g.
    controller: None, or the initial value of the trainable scalar w (LHC-NetC).
    """

    def __init__(self, channels, size, heads, dim, kernel=3, pool=3, norm_c=1, controller=None):
        super().__init__()
        if size * size % heads:
            raise ValueError(f"LHC: {heads} heads do not divide {size} x {size} positions")
        self.heads, self.dim, self.kernel, self.pool, self.norm_c = heads, dim, kernel, pool, norm_c
        self.query_key = nn.ModuleList(nn.Linear(size * size // heads, dim) for _ in range(heads))
        self.value = nn.Conv2d(channels, channels, kernel)
        self.temperature = nn.Linear(channels, channels)
        self.w = None if controller is None else nn.Parameter(torch.tensor(float(controller)))

    def forward(self, x):
        value = average_pool(self.value(pad_same(x, self.kernel)), 3)
        y = self.attention(x) @ self.slices(value)  # (B, heads, C, l)
        y = y.transpose(1, 2).reshape(x.shape)
        return x + (y if self.w is None else (1 + torch.tanh(self.w)) * y)

    def attention(self, x):
        """Return what each channel takes of each: (B, C, H, W) -> (B, heads, C, C)."""
        query = self.embed(average_pool(x, self.pool))
        key = self.embed(F.max_pool2d(pad_same(x, self.pool, float("-inf")), self.pool, 1))
        scores = query @ key.transpose(2, 3)  # (B, heads, C, C)
        temperature = torch.sigmoid(self.temperature(scores.mean(3)))  # (B, heads, C)
        divisor = self.dim ** (self.norm_c + temperature)
        return torch.softmax(scores / divisor[..., None], dim=3)

    def slices(self, x):
        """(B, C, H, W) -> (B, heads, C, l)."""
        return x.flatten(2).unflatten(2, (self.heads, -1)).transpose(1, 2)

    def embed(self, x):
        """(B, C, H, W) -> (B, heads, C, d)."""
        parts = zip(self.query_key, self.slices(x).unbind(1))
        return torch.stack([dense(part) for dense, part in parts], dim=1)


def norm(channels):
    """Batch normalisation; momentum is the share of the new value here, of the old one in Keras."""
    return nn.BatchNorm2d(channels, eps=2e-5, momentum=0.01)


def conv(inputs, outputs, size, stride=1):
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)


class Unit(nn.Module):
    """A pre-activation residual unit; the first of a stage has a convolution as its shortcut."""

    def __init__(self, inputs, outputs, stride, first):
        super().__init__()
        self.bn1, self.conv1 = norm(inputs), conv(inputs, outputs, 3, stride)
        self.bn2, self.conv2 = norm(outputs), conv(outputs, outputs, 3)
        self.sc = conv(inputs, outputs, 1, stride) if first else None

    def forward(self, x):
        active = F.relu(self.bn1(x))
        y = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return y + (self.sc(active) if self.sc else x)


class LHCNet(nn.Module):
    """ResNet34v2 with LHC modules: (B, S, S, 3), grey levels 0...255 -> probabilities (B, 7).

    size: S. lhc: None (plain ResNet34v2), or LHC_Settings.json: lists of five, for the modules
    after the stem and the four stages. controllers: five scalars of LHC-NetC, or None.
    """

    def __init__(self, size, lhc=None, controllers=None):
        super().__init__()
        names = ("num_heads", "att_embed_dim", "kernel_size", "pool_size", "norm_c")
        rows = list(zip(*(lhc[name] for name in names), controllers or 5 * [None])) if lhc else []
        self.bn_data, self.conv0, self.bn0 = norm(3), conv(3, 64, 7, 2), norm(64)
        self.bn_data.weight.requires_grad_(False)  # 1: the images are shifted, not scaled
        size, inputs = -(-size // 4), 64
        self.lhc1 = LHC(inputs, size, *rows[0]) if rows else nn.Identity()
        for stage, (units, outputs) in enumerate(zip(UNITS, FILTERS), start=1):
            for number in range(1, units + 1):
                stride = 2 if number == 1 and stage > 1 else 1
                unit = Unit(inputs, outputs, stride, first=number == 1)
                setattr(self, f"stage{stage}_unit{number}", unit)
                size, inputs = -(-size // stride), outputs
            module = LHC(inputs, size, *rows[stage]) if rows else nn.Identity()
            setattr(self, f"lhc{stage + 1}", module)
        self.bn1, self.drop = norm(512), nn.Dropout(0.4)
        self.fc1, self.fc2 = nn.Linear(512, 4096), nn.Linear(4096, 1024)
        self.fc3 = nn.Linear(1024, 7)

    def forward(self, images):
        x = F.relu(self.bn0(self.conv0(self.bn_data(images.permute(0, 3, 1, 2)))))
        x = self.lhc1(F.max_pool2d(x, 3, 2, 1))
        for stage, units in enumerate(UNITS, start=1):
            for number in range(1, units + 1):
                x = getattr(self, f"stage{stage}_unit{number}")(x)
            x = getattr(self, f"lhc{stage + 1}")(x)
        x = F.relu(self.bn1(x)).mean((2, 3))
        x = self.drop(F.relu(self.fc1(x)))
        x = self.drop(F.relu(self.fc2(x)))
        return torch.softmax(self.fc3(x), dim=1)


def load(path):
    """Return (the net, ready to predict, what is stored with it) of a file of Export.py."""
    stored = torch.load(path, map_location="cpu", weights_only=True)
    net = LHCNet(**stored["about"]["arguments"])
    net.load_state_dict(stored["state_dict"])
    return net.eval(), stored["about"]
