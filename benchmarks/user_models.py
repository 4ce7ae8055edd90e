"""Networks as users bring them: plain modules of torch, which know nothing of meta-learning."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from meta.models import TorchModel


class UserModel(TorchModel):
    """A module, and the shape of an example."""

    def __init__(self, make: Callable[[], nn.Module], inputs: tuple[int, ...]) -> None:
        """Wrap what ``make`` constructs.

        Args:
            make: constructs the module.
            inputs: shape of an example.
        """
        super().__init__(make)
        self.inputs = inputs


class SequenceClassifier(nn.Module):
    """An LSTM whose last hidden state is classified."""

    def __init__(self, numbers: int, units: int, outputs: int) -> None:
        """Make the layers.

        Args:
            numbers: of a time step.
            units: of the hidden state.
            outputs: number of classes.
        """
        super().__init__()
        self.lstm = nn.LSTM(numbers, units, batch_first=True)
        self.head = nn.Linear(units, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns logits [B, classes] of sequences [B, steps, numbers]."""
        hidden, _ = self.lstm(inputs)
        logits: Tensor = self.head(hidden[:, -1])
        return logits


class Encoder(nn.Module):
    """A transformer encoder whose mean token is classified."""

    def __init__(self, numbers: int, width: int, layers: int, outputs: int) -> None:
        """Make the layers.

        Args:
            numbers: of a token.
            width: numbers of a token inside, which four heads share.
            layers: of the encoder.
            outputs: number of classes.
        """
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True)
        self.embed = nn.Linear(numbers, width)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns logits [B, classes] of tokens [B, tokens, numbers]."""
        logits: Tensor = self.head(self.encoder(self.embed(inputs)).mean(1))
        return logits


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, track_running_stats=False)


class Residual(nn.Module):
    """Two convolutions around which the input is carried (He et al. 2016)."""

    def __init__(self, entering: int, leaving: int, stride: int) -> None:
        """Make the layers.

        Args:
            entering: channels.
            leaving: channels.
            stride: of the first convolution.
        """
        super().__init__()
        self.first = nn.Conv2d(entering, leaving, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(leaving, leaving, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([_norm(leaving), _norm(leaving)])
        self.around = nn.Sequential()
        if stride != 1 or entering != leaving:
            self.around = nn.Sequential(nn.Conv2d(entering, leaving, 1, stride, bias=False), _norm(leaving))

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns images [B, C, H, W]."""
        hidden = F.relu(self.norms[0](self.first(inputs)))
        return F.relu(self.norms[1](self.second(hidden)) + self.around(inputs))


class ResNet18(nn.Module):
    """Eight residual blocks of 64 to 512 channels after a convolution of 7 × 7 pixels (He et al. 2016)."""

    def __init__(self, outputs: int, width: int = 64) -> None:
        """Make the layers.

        Args:
            outputs: number of classes.
            width: channels of the first blocks.
        """
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, 2, 3, bias=False), _norm(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        self.blocks = nn.Sequential(
            *(
                Residual(widths[stage + half], widths[stage + 1], 2 if stage and not half else 1)
                for stage in range(4)
                for half in range(2)
            )
        )
        self.head = nn.Linear(8 * width, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns logits [B, classes] of images [B, 3, H, W]."""
        logits: Tensor = self.head(self.blocks(self.stem(inputs)).mean((2, 3)))
        return logits
