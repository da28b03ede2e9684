"""How a model is run."""

import threading
import time

import pytest
from torch import nn

from lulc_lib.models import create_model
from lulc_lib.running import evaluating


class Toy(nn.Module):
    """One convolution, global average pooling, one linear layer."""

    def __init__(self, classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=8, padding=1)
        self.fc = nn.Linear(4, classes)

    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))


def test_evaluating_gives_each_module_its_mode_back():
    """Modes return also after an error inside the block."""
    model = create_model(Toy(), image_size=64).train()
    model.network.conv.eval()

    def fail():
        with evaluating(model):
            assert not model.training
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert model.training
    assert not model.network.conv.training


def test_threads_take_turns():
    """What one thread does with a model is done before another begins; one may nest."""
    model, order = Toy(), []
    inside = threading.Event()

    def other():
        inside.wait(10)
        with evaluating(model):
            order.append("other")

    thread = threading.Thread(target=other)
    thread.start()
    with evaluating(model), evaluating(model):
        inside.set()
        time.sleep(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "other"]
    assert model.training
