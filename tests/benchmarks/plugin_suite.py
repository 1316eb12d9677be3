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


class Language(nn.Module):
    """Predicts the next of twenty letters from those before."""

    def __init__(self) -> None:
        super().__init__()
        self.letters = nn.Embedding(20, 32)
        self.cells = nn.LSTM(32, 64, 2, batch_first=True, dropout=0.1)
        self.head = nn.Linear(64, 20)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Logits of shape (batch, time, 20), and the state after the last letter."""
        hidden, state = self.cells(self.letters(x), state)
        return self.head(hidden), state


def test_language_model_through_time() -> None:
    """An LSTM whose state goes on from piece to piece without its graph; plain SGD with clipping."""
    torch.manual_seed(0)
    model, state, losses = Language(), None, []
    text = torch.arange(8)[:, None] * 3 + torch.arange(1_001)
    text = text % 20
    for start in range(0, 1_000, 20):
        model.zero_grad()
        logits, state = model(text[:, start : start + 20], state)
        state = tuple(each.detach() for each in state)
        loss = functional.cross_entropy(logits.flatten(0, 1), text[:, start + 1 : start + 21].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(parameter.grad, alpha=-2.0)
        losses.append(loss.item())
    assert losses[-1] < losses[0]


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return functional.relu(x + self.body(x))


def test_residual_network_in_two_micro_batches() -> None:
    """Momentum, weight decay, accumulated gradients and a schedule."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        Block(16),
        Block(16),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
    images, labels = torch.randn(4, 3, 16, 16), torch.arange(4)
    for _ in range(12):
        optimizer.zero_grad()
        for _ in range(2):
            noisy = images.repeat(4, 1, 1, 1) + 0.3 * torch.randn(16, 3, 16, 16)
            loss = functional.cross_entropy(model(noisy), labels.repeat(4)) / 2
            loss.backward()
        optimizer.step()
        schedule.step()
    assert loss < 0.7


def test_contrastive_pairs_find_each_other() -> None:
    """Two noisy views of each sample, a temperature and a symmetric loss."""
    torch.manual_seed(0)
    x, _ = _digits()
    model = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.LayerNorm(128), nn.Linear(128, 32))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for start in range(0, 1_500, 32):
        batch = x[start : start + 32]
        one, other = (functional.normalize(model(batch + 0.1 * torch.randn_like(batch))) for _ in range(2))
        logits, own = one @ other.T / 0.1, torch.arange(len(batch))
        loss = (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    assert (logits.argmax(1) == own).float().mean() > 0.8


def test_policy_learns_which_way_to_go() -> None:
    """REINFORCE on a corridor: the model is asked at every move, and updated after the episode."""
    torch.manual_seed(0)
    policy = nn.Sequential(nn.Linear(5, 32), nn.Tanh(), nn.Linear(32, 2))
    optimizer, lengths = torch.optim.Adam(policy.parameters(), lr=1e-2), []
    places = torch.eye(5)
    for _ in range(40):
        place, logs, rewards = 2, [], []
        while 0 <= place < 5 and len(logs) < 20:
            choice = torch.distributions.Categorical(logits=policy(places[place]))
            action = choice.sample()
            logs.append(choice.log_prob(action))
            place += 2 * int(action) - 1
            rewards.append(1.0 if place == 5 else -0.1)
        returns = torch.tensor(rewards).flip(0).cumsum(0).flip(0)
        loss = -(torch.stack(logs) * returns).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        lengths.append(len(logs))
    assert lengths[-1] <= 20


def test_fine_tuning_a_head_on_frozen_parts() -> None:
    """A backbone in evaluation mode, without gradients, and a new head; then an evaluation by epochs."""
    torch.manual_seed(0)
    x, y = _digits()
    backbone = nn.Sequential(
        nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU()
    )
    model = nn.Sequential(backbone, nn.Linear(128, 10))
    for parameter in backbone.parameters():
        parameter.requires_grad_(requires_grad=False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        model.train()
        backbone.eval()
        for start in range(0, 1_500, 50):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[start : start + 50]), y[start : start + 50]).backward()
            optimizer.step()
        accuracy = _accuracy(model, x[1_500:], y[1_500:])
    assert accuracy > 0.6


def test_segmentation_of_discs() -> None:
    """An encoder and a decoder with a skip connection, and two losses that are added."""
    torch.manual_seed(0)
    down = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU())
    deep = nn.Sequential(
        nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.SiLU(), nn.Upsample(scale_factor=2)
    )
    head = nn.Conv2d(24, 1, 1)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.deep, self.head = down, deep, head

        def forward(self, x: Tensor) -> Tensor:
            fine = self.down(x)
            return self.head(torch.cat([fine, self.deep(fine)], 1))

    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    grid = torch.linspace(-1, 1, 24)
    for _ in range(30):
        centres = torch.rand(8, 2, 1, 1) - 0.5
        discs = (((grid[:, None] - centres[:, 0]) ** 2 + (grid - centres[:, 1]) ** 2) < 0.2).float()[:, None]
        logits = model(discs + 0.3 * torch.randn_like(discs))
        overlap = (2 * (logits.sigmoid() * discs).sum() + 1) / (logits.sigmoid().sum() + discs.sum() + 1)
        loss = functional.binary_cross_entropy_with_logits(logits, discs) + 1 - overlap
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert overlap > 0.7


def test_differential_equation_by_its_residual() -> None:
    """A network that solves y' = -y: its loss holds a derivative by its own input."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(100):
        x = torch.rand(256, 1, requires_grad=True)
        y = model(x)
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        loss = (slope + y).square().mean() + (model(torch.zeros(1, 1)) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
