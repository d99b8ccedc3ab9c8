"""A small convolutional network, and rows for it and others."""

import torch
from torch import nn


def rows(*shape, dtype=torch.float32):
    """Seeded normal values: the same for the same shape, whatever was drawn before."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(dtype)


def convolutions():
    """Takes images of 3 x 8 x 8; in evaluation mode."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(96, 5),
    ).eval()
