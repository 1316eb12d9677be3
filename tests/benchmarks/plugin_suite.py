"""A suite of ordinary training tests, as projects have them; what the plugin costs is measured on it.

Not collected by its name: `python -m tests.benchmarks.plugin` runs it.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset


def _digits() -> tuple[Tensor, Tensor]:
    digits = load_digits()
    x = torch.tensor(digits.data, dtype=torch.float32)
    return (x - x.mean(0)) / (x.std(0) + 1e-6), torch.tensor(digits.target)


def _accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    model.eval()
    with torch.no_grad():
        return float((model(x).argmax(1) == y).float().mean())


def _fit(model: nn.Module, x: Tensor, y: Tensor, *, epochs: int, lr: float = 1e-3, batch: int = 32) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    loader = DataLoader(TensorDataset(x, y), batch_size=batch, shuffle=True)
    model.train()
    for _ in range(epochs):
        for inputs, labels in loader:
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()


def test_mlp_learns_digits() -> None:
    """Two hidden layers with dropout."""
    torch.manual_seed(0)
    x, y = _digits()
    model = nn.Sequential(
        nn.Linear(64, 512), nn.ReLU(), nn.Dropout(0.2), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
    )
    _fit(model, x[:1500], y[:1500], epochs=4)
    assert _accuracy(model, x[1500:], y[1500:]) > 0.85


def test_convolutions_learn_digits() -> None:
    """Two convolutions with batch normalisation."""
    torch.manual_seed(0)
    x, y = _digits()
    model = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 10),
    )
    _fit(model, x[:1500], y[:1500], epochs=2)
    assert _accuracy(model, x[1500:], y[1500:]) > 0.6


class Tagger(nn.Module):
    """Says of each position of a sequence whether an odd number of ones came before."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.GRU(1, 48, batch_first=True)
        self.head = nn.Linear(48, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (batch * time, 2)."""
        return self.head(self.cells(x)[0]).flatten(0, 1)


def test_recurrent_loss_falls() -> None:
    """A GRU with clipped gradients."""
    torch.manual_seed(0)
    model, losses = Tagger(), []
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(80):
        bits = torch.randint(0, 2, (32, 20, 1))
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(bits.float()), bits.cumsum(1).remainder(2).flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < sum(losses[:10])


def test_transformer_overfits_one_batch() -> None:
    """Self-attention with a causal mask and a schedule of the learning rate."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    embedding, encoder, head = nn.Embedding(20, 64), nn.TransformerEncoder(layer, 2), nn.Linear(64, 20)
    model = nn.ModuleList([embedding, encoder, head])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=60)
    words = torch.randint(0, 20, (16, 12))
    mask = nn.Transformer.generate_square_subsequent_mask(11)
    for _ in range(60):
        optimizer.zero_grad()
        logits = head(encoder(embedding(words[:, :-1]), mask=mask, is_causal=True))
        loss = functional.cross_entropy(logits.flatten(0, 1), words[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        schedule.step()
    assert loss < 1.5


def test_gan_moves_towards_the_data() -> None:
    """Two models that train each other."""
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(8, 128), nn.LeakyReLU(0.2), nn.Linear(128, 2))
    critic = nn.Sequential(nn.Linear(2, 128), nn.LeakyReLU(0.2), nn.Linear(128, 1))
    of_generator = torch.optim.Adam(generator.parameters(), lr=1e-3)
    of_critic = torch.optim.Adam(critic.parameters(), lr=1e-3)
    ones, zeros = torch.ones(64, 1), torch.zeros(64, 1)
    for _ in range(150):
        real, fake = torch.randn(64, 2) + 3, generator(torch.randn(64, 8))
        of_critic.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(critic(real), ones)
        loss = loss + functional.binary_cross_entropy_with_logits(critic(fake.detach()), zeros)
        loss.backward()
        of_critic.step()
        of_generator.zero_grad()
        functional.binary_cross_entropy_with_logits(critic(fake), ones).backward()
        of_generator.step()
    assert generator(torch.randn(256, 8)).mean() > 0.3


def test_autoencoder_with_a_learnt_variance() -> None:
    """Exponentials and logarithms that stay in bounds."""
    torch.manual_seed(0)
    x, _ = _digits()
    encoder, decoder = nn.Linear(64, 16), nn.Linear(8, 64)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=3e-3)
    losses = []
    for start in range(0, 1600, 16):
        batch = x[start : start + 16]
        optimizer.zero_grad()
        mean, log_variance = encoder(batch).chunk(2, dim=1)
        hidden = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        distance = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).mean()
        loss = functional.mse_loss(decoder(hidden), batch) + 0.01 * distance
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < sum(losses[:10])
