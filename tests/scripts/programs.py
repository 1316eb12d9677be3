"""Programs as people write them, each a file of its own; none of them knows of nanscope."""

CLASSIFIER = """
import argparse, sys
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def train(args, model, loader, optimizer, criterion):
    model.train()
    for number, (data, target) in enumerate(loader):
        optimizer.zero_grad()
        loss = criterion(model(data), target)
        loss.backward()
        optimizer.step()
        print(f"step {number} loss {loss.item():.3f}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("-o", default="nothing of nanscope's")
    parser.add_argument("--workers", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(96, 6), torch.randint(0, 3, (96,)))
    loader = DataLoader(data, 8, num_workers=args.workers)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    with torch.no_grad():
        model(torch.zeros(1, 6))
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr)
    train(args, model, loader, optimizer, nn.CrossEntropyLoss())
    print("given", args.o, __name__, __file__)


if __name__ == "__main__":
    main()
"""

GAN = """
import torch
from torch import nn


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, noise):
        return self.main(noise)


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(nn.Linear(4, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1), nn.Sigmoid())

    def forward(self, sample):
        return self.main(sample).view(-1)


torch.manual_seed(0)
netG, netD = Generator(), Discriminator()
criterion = nn.BCELoss()
optimizerD = torch.optim.Adam(netD.parameters(), lr=2e-4)
optimizerG = torch.optim.Adam(netG.parameters(), lr=2e-4)
for step in range(12):
    netD.zero_grad()
    real = torch.randn(6, 4)
    criterion(netD(real), torch.ones(6)).backward()
    fake = netG(torch.randn(6, 2))
    criterion(netD(fake.detach()), torch.zeros(6)).backward()
    optimizerD.step()
    netG.zero_grad()
    loss = -torch.log(1 - netD(fake) - (2.0 if step == 9 else 0.0)).mean()
    loss.backward()
    optimizerG.step()
"""

LANGUAGE_MODEL = """
import torch
from torch import nn


class RNNModel(nn.Module):
    def __init__(self, ntoken, nhid):
        super().__init__()
        self.encoder = nn.Embedding(ntoken, nhid)
        self.rnn = nn.LSTM(nhid, nhid)
        self.decoder = nn.Linear(nhid, ntoken)

    def forward(self, tokens, hidden):
        output, hidden = self.rnn(self.encoder(tokens), hidden)
        return torch.log_softmax(self.decoder(output).view(-1, self.decoder.out_features), dim=1), hidden


torch.manual_seed(1)
model, criterion, lr = RNNModel(20, 8), nn.NLLLoss(), 1e20
data = torch.randint(0, 20, (30, 4))
hidden = (torch.zeros(1, 4, 8), torch.zeros(1, 4, 8))
for i in range(0, 24, 4):
    model.zero_grad()
    hidden = tuple(h.detach() for h in hidden)
    output, hidden = model(data[i : i + 4], hidden)
    loss = criterion(output, data[i + 1 : i + 5].reshape(-1))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
    for p in model.parameters():
        p.data.add_(p.grad, alpha=-lr)
"""

RAISES = """
import torch
from torch import nn

model = nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(5):
    optimizer.zero_grad()
    model(torch.randn(4, 3)).square().mean().backward()
    optimizer.step()
raise ValueError("after five steps")
"""

NOTHING = """
import sys
print("no model here", sys.argv[1:])
sys.exit(3)
"""

ODD_END = """
import os, signal, sys
import torch
from torch import nn

model = nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)


def step():
    optimizer.zero_grad()
    model(torch.randn(4, 3)).square().mean().backward()
    optimizer.step()


for number in range(5):
    if number == 1:
        child = os.fork()
        if child == 0:
            step()
            sys.exit(0)
        os.waitpid(child, 0)
    step()
print("the last words", flush=True)
sys.stdout.close()
os.kill(os.getpid(), signal.SIGINT)
"""

CLOSURE = """
import torch
from torch import nn

torch.manual_seed(0)
model, x = nn.Linear(3, 1), torch.randn(16, 3)
optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)


def closure():
    optimizer.zero_grad()
    loss = (model(x) - x.sin().sum(1, keepdim=True)).square().mean()
    loss.backward()
    return loss


for _ in range(4):
    optimizer.step(closure)
"""
