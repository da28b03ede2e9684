"""How a model is run."""

import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

from lulc_lib.explanations import explain, layers
from lulc_lib.faithfulness import adapted, randomised
from lulc_lib.live.packing import pack_vit
from lulc_lib.models import TileClassifier, create_model, enlarged
from lulc_lib.predictions import predict
from lulc_lib.running import copied, evaluating


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


def order_of(held, asked, patience=0.2):
    """Return who is first, where one thread holds a model and another asks for a second one.

    The first waits for the other for so many seconds; where it need not wait, that may be long.
    """
    order, inside = [], threading.Event()

    def other():
        inside.wait(10)
        with evaluating(asked):
            order.append("other")

    thread = threading.Thread(target=other)
    thread.start()
    with evaluating(held):
        inside.set()
        thread.join(patience)
        order.append("first")
    thread.join(10)
    return order


def wrapped(network):
    """Wrap a module without a pass over it, which would give it its lock."""
    return TileClassifier(network, "toy", 64, (0.3,) * 3, (0.2,) * 3)


class Both(nn.Module):
    """Two networks whose logits are added."""

    def __init__(self, *networks):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x):
        return sum(network(x) for network in self.networks)


def test_threads_take_turns_where_models_share_modules():
    """Two wrappers of one module, a part and its whole, and models joined later must all wait."""
    network, second = Toy(), Toy()
    one, other = wrapped(network), wrapped(network)
    assert order_of(one, other) == ["first", "other"]
    assert order_of(other, one) == ["first", "other"]
    assert order_of(network.conv, wrapped(network)) == ["first", "other"]
    assert order_of(one, wrapped(second), patience=20) == ["other", "first"]
    both = Both(network, second)
    for model in (one, second):
        assert order_of(both, model) == ["first", "other"]
        assert order_of(model, both) == ["first", "other"]
    assert order_of(one, second, patience=20) == ["other", "first"]


def test_threads_that_take_shared_modules_in_any_order_all_end():
    """A part may be run within its whole and the whole within a part: no thread waits for ever."""
    networks = [Toy(), Toy()]
    for network in networks:
        with evaluating(network):
            pass
    models = [*networks, Both(*networks), Both(*networks[::-1]), networks[0].fc, wrapped(Toy())]

    def work(seed):
        for i in np.random.default_rng(seed).integers(0, len(models), 50):
            with evaluating(models[i]):
                time.sleep(1e-4)
        for _ in range(20):
            with evaluating(networks[0].fc), evaluating(wrapped(networks[0])):
                time.sleep(1e-4)

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


def test_two_wrappers_of_one_module_explain_in_threads():
    """Hooks and modes of one thread must not reach the other's maps."""
    network = Toy()
    models = [wrapped(network), wrapped(network)]
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    expected, found = explain(models[0], images).grid, []

    def work(model):
        for _ in range(3):
            found.append(explain(model, images).grid)

    threads = [threading.Thread(target=work, args=(model,)) for model in models * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 12
    for grid in found:
        np.testing.assert_array_equal(grid, expected)


@pytest.mark.parametrize(
    ("name", "copy", "trains"),
    [
        ("resnet18", lambda model, _: copied(model), True),
        ("resnet18", lambda model, _: randomised(model), True),
        ("resnet18", lambda model, _: enlarged(model, 2), True),
        ("vit", lambda model, _: pack_vit(model).model, True),
        ("vit", lambda model, tiles: adapted(model, tiles, steps=1, batch_size=1), False),
    ],
    ids=["copied", "randomised", "enlarged", "packed", "adapted"],
)
def test_copies_carry_no_hook_or_mode_of_another_thread(tiles, name, copy, trains):
    """A copy that is asked for while a thread explains the model is made after that."""
    model, inside = made(name).train(), threading.Event()

    def explaining():
        with evaluating(model):
            handle = model.network.register_forward_hook(lambda *_: None)
            inside.set()
            time.sleep(0.1)
            handle.remove()

    thread = threading.Thread(target=explaining)
    thread.start()
    assert inside.wait(10)
    got = copy(model, tiles)
    thread.join(10)
    assert not any(module._forward_hooks for module in got.modules())
    assert got.training == trains


# --- unusual models ------------------------------------------------------------------------------

TRANSFORMER = ["gradcam", "rollout", "relevance", "legrad", "inputxgradient"]
CONVOLUTIONAL = ["gradcam", "fullgrad", "inputxgradient"]


def made(name):
    torch.manual_seed(0)
    small = {"depth": 3, "embed_dim": 32, "num_heads": 2} if name == "vit" else {}
    return create_model(name, image_size=64, **small)


def tile():
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def checkpointed(model):
    model.network.set_grad_checkpointing(True)
    return model


def parallel(model):
    model.network = nn.DataParallel(model.network)
    return model


def frozen(model):
    return model.requires_grad_(False)


@pytest.mark.parametrize("change", [checkpointed, parallel, frozen])
@pytest.mark.parametrize(("name", "known"), [("vit", TRANSFORMER), ("resnet18", CONVOLUTIONAL)])
def test_what_changes_no_logits_changes_no_maps(name, known, change):
    """Gradient checkpointing, DataParallel on one device and frozen weights are served."""
    expected = explain(made(name), tile(), known, target=1)
    model = change(made(name))
    found = explain(model, tile(), known, target=1)
    for method in known:
        np.testing.assert_array_equal(found[method].grid, expected[method].grid)
    np.testing.assert_allclose(found["gradcam"].logits, predict(model, tile()).logits, atol=1e-5)
    if change is checkpointed:
        assert model.network.grad_checkpointing


@pytest.mark.parametrize(("name", "known"), [("vit", TRANSFORMER), ("resnet18", CONVOLUTIONAL)])
def test_gradients_switched_off_globally(name, known):
    """Every family of methods finds its gradients, and the caller's switch stays as it was."""
    expected = explain(made(name), tile(), known, target=1)
    torch.set_grad_enabled(False)
    try:
        found = explain(made(name), tile(), known, target=1)
        assert not torch.is_grad_enabled()
    finally:
        torch.set_grad_enabled(True)
    for method in known:
        np.testing.assert_array_equal(found[method].grid, expected[method].grid)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", ["gradcam", "inputxgradient"])
def test_half_precision_is_named(dtype, method):
    """Where PyTorch speaks of types of tensors, the error says what the model needs."""
    model = made("resnet18").to(dtype)
    message = rf"resnet18 has parameters of {str(dtype)[6:]}.*call model.float\(\)"
    for ask in (predict, lambda *given: explain(*given, method)):
        with pytest.raises(ValueError, match=message) as caught:
            ask(model, tile())
        assert "\n" not in str(caught.value)
    assert len(predict(model.float(), tile())) == 1


class Casting(Toy):
    """A network in half precision that takes tiles in float32 and returns such logits."""

    def forward(self, x):
        return super().forward(x.to(self.fc.weight.dtype)).float()


def test_half_precision_that_casts_by_itself_is_served():
    """Wrapped modules may choose their own precision."""
    network = Casting()
    expected = explain(wrapped(network), tile())
    found = explain(wrapped(network.bfloat16()), tile())
    np.testing.assert_allclose(found.logits, expected.logits, atol=0.02)
    np.testing.assert_allclose(found.grid, expected.grid, atol=0.05 * np.abs(expected.grid).max())


def test_models_made_under_inference_mode():
    """Predictions are served; maps that need gradients name the cause."""
    with torch.inference_mode():
        model = made("resnet18")
    np.testing.assert_array_equal(
        predict(model, tile()).logits, predict(made("resnet18"), tile()).logits
    )
    explain(model, tile(), ["eigencam", "occlusion"])
    with pytest.raises(ValueError, match=r"resnet18 was made under torch.inference_mode"):
        explain(model, tile(), "inputxgradient")


def test_several_devices_are_refused():
    """Replicas run in threads of their own, which hooks on the model cannot follow."""
    model = parallel(made("resnet18"))
    model.network.device_ids = [0, 1]  # as on a machine with two GPUs
    for ask in (lambda: explain(model, tile()), lambda: layers(model)):
        with pytest.raises(ValueError, match=r"network spreads tiles over 2 devices by nn.DataPar"):
            ask()


def test_other_errors_stay_what_they_are():
    """Only where the parameters explain an error it is put in our words."""
    model = Toy()
    with pytest.raises(RuntimeError, match="inside"), evaluating(model):
        raise RuntimeError("inside")
    with pytest.raises(torch.OutOfMemoryError), evaluating(model.half()):
        raise torch.OutOfMemoryError("full")
