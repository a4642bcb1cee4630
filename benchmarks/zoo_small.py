"""Small signal, recurrent and attention networks of our own, with BatchNorm and LayerNorm where users put them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 4


class ResidualSignal(nn.Module):
    """1-D residual network over a signal of several channels."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(3, width, 7, 2, 3, bias=False), nn.BatchNorm1d(width), nn.ReLU())
        self.pool = nn.MaxPool1d(3, 2, 1)
        self.body = nn.Sequential(
            nn.Conv1d(width, width, 3, padding=1),
            nn.BatchNorm1d(width),
            nn.ELU(),
            nn.Conv1d(width, width, 3, padding=1),
            nn.BatchNorm1d(width),
        )
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stem(x))
        return self.head(F.relu(x + self.body(x)).mean(-1))


class TemporalConvolutions(nn.Module):
    """Causal dilated convolutions with gates, as in WaveNet."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.first = nn.Conv1d(3, width, 1)
        self.gates = nn.ModuleList(nn.Conv1d(width, 2 * width, 2, dilation=2**i) for i in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(3))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for i, (gate, norm) in enumerate(zip(self.gates, self.norms, strict=True)):
            a, b = gate(F.pad(x, (2**i, 0))).chunk(2, 1)
            x = x + norm(torch.tanh(a) * torch.sigmoid(b))
        return self.head(x[..., -1])


class SignalUNet(nn.Module):
    """1-D encoder and decoder: transposed convolution, skip connection, one class for each step."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv1d(3, width, 5, padding=2), nn.BatchNorm1d(width), nn.LeakyReLU(0.1))
        self.deep = nn.Sequential(
            nn.AvgPool1d(2), nn.Conv1d(width, 2 * width, 3, padding=1), nn.BatchNorm1d(2 * width), nn.GELU()
        )
        self.up = nn.ConvTranspose1d(2 * width, width, 2, 2)
        self.head = nn.Conv1d(2 * width, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down(x)
        return self.head(torch.cat([fine, self.up(self.deep(fine))], 1))


class SeparableSignal(nn.Module):
    """Depthwise separable 1-D network with squeeze-and-excitation and GroupNorm, as for keyword spotting."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv1d(3, width, 3, 2, 1)
        self.depth = nn.Conv1d(width, width, 5, padding=2, groups=width)
        self.point = nn.Conv1d(width, width, 1)
        self.norms = nn.ModuleList([nn.BatchNorm1d(width), nn.GroupNorm(2, width), nn.InstanceNorm1d(width)])
        self.squeeze, self.excite = nn.Linear(width, 2), nn.Linear(2, width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.norms[0](self.first(x)))
        y = F.silu(self.norms[1](self.point(self.depth(x))))
        y = y * torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean(-1)))))[..., None]
        return self.head(F.adaptive_avg_pool1d(self.norms[2](x + y), 1).flatten(1))


class Spectrogram(nn.Module):
    """A learnt bank of filters, log power, then 2-D convolutions with BatchNorm."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.bank = nn.Conv1d(1, 8, 8, 4, bias=False)
        self.net = nn.Sequential(
            nn.BatchNorm2d(1),
            nn.Conv2d(1, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d((2, 2)),
        )
        self.head = nn.Linear(4 * width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        power = torch.log1p(self.bank(x).square())
        return self.head(self.net(power[:, None]).flatten(1))


class Recurrent(nn.Module):
    """An embedding-free sequence classifier: GRU, LSTM or plain RNN, then BatchNorm over the last state."""

    def __init__(
        self, kind: type[nn.RNN | nn.GRU | nn.LSTM], layers: int = 1, bidirectional: bool = False
    ) -> None:
        super().__init__()
        self.cells = kind(5, 6, layers, batch_first=True, bidirectional=bidirectional)
        features = 6 * (2 if bidirectional else 1)
        self.norm = nn.BatchNorm1d(features)
        self.head = nn.Linear(features, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.cells(x)[0][:, -1]))


class CellLoop(nn.Module):
    """A loop over GRUCell and LSTMCell with LayerNorm between the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.lstm, self.norm = nn.GRUCell(5, 6), nn.LSTMCell(6, 6), nn.LayerNorm(6)
        self.head = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        h = c = g = x.new_zeros(x.shape[0], 6)
        for step in x.unbind(1):
            g = self.gru(step, g)
            h, c = self.lstm(self.norm(g), (h, c))
        return self.head(h)


class Tokens(nn.Module):
    """Token embedding, recurrent layer, BatchNorm over channels: integer inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6, padding_idx=0)
        self.cells = nn.LSTM(6, 6, batch_first=True)
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        states = self.cells(self.embedding(x))[0].transpose(1, 2)
        return self.head(self.norm(states).amax(-1))


class Attention(nn.Module):
    """Self-attention by `nn.MultiheadAttention` with the norm of choice around it."""

    def __init__(self, norm: str, causal: bool = False) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.first, self.norm, self.causal = nn.Linear(5, 8), norm, causal
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(8) if norm == "batch" else nn.RMSNorm(8) if norm == "rms" else nn.LayerNorm(8)
            for _ in range(2)
        )
        self.mlp = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))
        self.head = nn.Linear(8, CLASSES)

    def _normed(self, i: int, x: Tensor) -> Tensor:
        if self.norm == "batch":
            return self.norms[i](x.transpose(1, 2)).transpose(1, 2)
        return self.norms[i](x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self._normed(0, x)
        mask = (
            nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype) if self.causal else None
        )
        x = x + self.attention(y, y, y, attn_mask=mask, need_weights=False)[0]
        x = x + self.mlp(self._normed(1, x))
        return self.head(x.mean(1))


class Translator(nn.Module):
    """PyTorch's own encoder and decoder layers, cross attention included."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(5, 8), nn.BatchNorm1d(8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True)
        self.decoder = nn.TransformerDecoderLayer(8, 2, 12, 0.0, batch_first=True, norm_first=True)
        self.query = nn.Parameter(torch.randn(1, 3, 8))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x).transpose(1, 2)).transpose(1, 2)
        y = self.decoder(self.query.expand(x.shape[0], -1, -1), self.encoder(x))
        return self.head(y.mean(1))


class ConvRecurrent(nn.Module):
    """Convolutions with BatchNorm, then a bidirectional GRU over time: speech recognition in small."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv1d(5, 6, 3, padding=1), nn.BatchNorm1d(6), nn.Hardtanh(0, 20), nn.MaxPool1d(2)
        )
        self.cells = nn.GRU(6, 4, batch_first=True, bidirectional=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convolutions(x.transpose(1, 2)).transpose(1, 2)
        return self.head(self.cells(x)[0].mean(1))
