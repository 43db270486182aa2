"""Networks as people write them that do not keep the rows of a batch apart, or are odd in another way; 3x8x8 images."""

import torch
from torch import Tensor, nn

SHAPE = (3, 8, 8)


def drawn(kind: type[nn.Module]) -> nn.Module:
    """Return such a network with fixed weights and statistics."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = kind()
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.2)
                layer.running_var.uniform_(0.5, 1.5)
    return network


class Plain(nn.Module):
    """Keeps rows apart."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.fc = nn.Linear(16, 4)

    def maps(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.maps(x).mean((2, 3)))


# Networks that mix what streams send
class Mirrored(Plain):
    """Image and mirror in one forward."""

    def forward(self, x: Tensor) -> Tensor:
        maps = self.maps(torch.cat([x, x.flip(3)]))
        return sum(self.fc(half.mean((2, 3))) for half in maps.chunk(2)) / 2


class TokensFirst(Plain):
    """Tokens come before images, and a BatchNorm sees them so."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(16)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.conv(x).flatten(2).permute(2, 0, 1)
        tokens = self.norm(tokens.flatten(0, 1)).view(tokens.shape)
        return self.fc(torch.relu(tokens).mean(0))


class Crops(Plain):
    """Four crops of each image, crop by crop."""

    def forward(self, x: Tensor) -> Tensor:
        crops = torch.cat([x[:, :, i : i + 6, j : j + 6] for i in (0, 2) for j in (0, 2)])
        return self.fc(self.maps(crops).mean((2, 3))).view(4, len(x), -1).mean(0)


class Ghost(Plain):
    """Normalises at most six rows together."""

    def maps(self, x: Tensor) -> Tensor:
        return torch.relu(torch.cat([self.bn(part) for part in self.conv(x).split(6)]))


class BatchMean(Plain):
    """Takes a part of the batch's mean feature from each."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.maps(x).mean((2, 3))
        return self.fc(features - 0.5 * features.mean(0))


MIXING = (Mirrored, TokensFirst, Crops, Ghost, BatchMean)


# Networks that are odd alone
class Counting(Plain):
    """Writes buffers in forward, one of which its answers follow."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("centre", torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor:
        features = self.maps(x).mean((2, 3))
        logits = self.fc(features - self.centre)
        self.seen += len(x)
        self.centre = 0.9 * self.centre + 0.1 * features.detach().mean(0)
        return logits


class Remembering(Plain):
    """Keeps a mean of what it has seen in an attribute, which its answers follow."""

    def __init__(self) -> None:
        super().__init__()
        self.centre = torch.zeros(16)

    def forward(self, x: Tensor) -> Tensor:
        features = self.maps(x).mean((2, 3))
        logits = self.fc(features - self.centre)
        self.centre = 0.9 * self.centre + 0.1 * features.detach().mean(0)
        return logits


class Auxiliary(Plain):
    """Returns the logits of a second head first."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.maps(x).mean((2, 3))
        return {"aux": self.aux(features), "out": self.fc(features)}


class Squeezed(Plain):
    """Drops every dimension of size 1, also that of a single image."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(nn.functional.adaptive_avg_pool2d(self.maps(x), 1).squeeze()).log_softmax(1)


class WeightNorm(Plain):
    """Has weights that are computed from others, the old way."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            self.conv = nn.utils.weight_norm(self.conv)
        self.conv(torch.zeros(1, *SHAPE))  # as after training: the weight that is kept has a gradient


class TiedNorms(Plain):
    """Two norms share scale, shift and statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Conv2d(16, 16, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.bn2.weight, self.bn2.bias = self.bn.weight, self.bn.bias
        self.bn2.running_mean, self.bn2.running_var = self.bn.running_mean, self.bn.running_var

    def maps(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn2(self.second(super().maps(x))))


class HalfButNorms(Plain):
    """Computes in bfloat16, but for its norms."""

    def __init__(self) -> None:
        super().__init__()
        self.to(torch.bfloat16)
        self.bn.float()


class Random(Plain):
    """Draws random numbers in forward."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.1 * torch.rand_like(x))


class Softmaxed(Plain):
    """Ends in a softmax."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


class SoftmaxedTwice(Plain):
    """Ends in a softmax layer, and returns a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Softmax(dim=-1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.maps(x).mean((2, 3))
        return {"features": features, "probabilities": self.last(self.fc(features))}


class Several(Plain):
    """Returns features first, then logits, in a tuple."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.maps(x).mean((2, 3))
        return features, self.fc(features)


class ConvHead(Plain):
    """Classifies each place and takes the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.maps(x)).mean((2, 3))


class Cosine(nn.Module):
    """A head of cosines with one direction for each class."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 16))

    def forward(self, features: Tensor) -> Tensor:
        return 10 * nn.functional.linear(nn.functional.normalize(features), nn.functional.normalize(self.weight))


class CosineHead(Plain):
    """Ends in a head of cosines."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = Cosine()


class Headless(Plain):
    """Makes its logits in forward, by a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        del self.fc
        self.directions = nn.Parameter(torch.randn(4, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(x).mean((2, 3)) @ self.directions.T


class Finer(Plain):
    """Answers in float64, with features in float32."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).double()


class SoftmaxedCoarser(Plain):
    """Returns probabilities in float16, with features in float32."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1).half()


class WithoutGradient(Plain):
    """Lets no gradient through to its norm layers."""

    @torch.no_grad()
    def maps(self, x: Tensor) -> Tensor:
        return super().maps(x)


class OneLogit(Plain):
    """Tells two classes apart by one number."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 1)


class Sigmoids(Plain):
    """Says of each class by itself whether it is there."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(16, 4), nn.Sigmoid())


class FixedBatch(Plain):
    """Takes batches of eight only."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.view(8, *SHAPE))
