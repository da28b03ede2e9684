"""One thread computes, the newest wish first; what is passed over is stopped and begun again."""

import subprocess
import sys
import threading

import pytest
import torch

from lulc_lib.drawn_tiles import synthetic
from lulc_lib.explanations import explain
from lulc_lib.models import create_model
from lulc_lib.widgets.work import Job, StoppedError, Work


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def work(log) -> Work:
    return Work(lambda: log.append("told"), lambda error: log.append(f"failed: {error}"))


def paused(name, log, pieces=1):
    """A job of some pieces, each of which waits for an event; and that event."""
    begun, go = threading.Event(), threading.Event()

    def make(between):
        for number in range(pieces):
            between()
            log.append(f"{name} {number}")
            begun.set()
            go.wait(20)

    return Job(name, name, make), begun, go


def test_the_newest_wish_goes_first(work, log):
    """What runs is stopped between two pieces when something else is wanted, and is not resumed."""
    old, begun, go = paused("old", log, pieces=3)
    work.want([old, Job("never", "", lambda between: log.append("never"))])
    begun.wait(20)
    work.want([Job("new", "", lambda between: log.append("new"))])
    go.set()
    assert work.wait(20)
    assert [word for word in log if word != "told"] == ["old 0", "new"]


def test_errands_give_way_and_come_back(work, log):
    """A long errand stops for a wish and is begun again afterwards; the wish is not repeated."""
    errand, begun, go = paused("errand", log, pieces=2)
    work.add(errand)
    begun.wait(20)
    work.want([Job("wish", "", lambda between: log.append("wish"))])
    go.set()
    assert work.wait(20)
    assert [word for word in log if word != "told"] == ["errand 0", "wish", "errand 0", "errand 1"]


def test_a_running_job_that_is_still_wanted_goes_on(work, log):
    """A new wish for the same thing, such as after a change of opacity, does not begin it again."""
    job, begun, go = paused("map", log, pieces=2)
    work.want([job])
    begun.wait(20)
    work.want([Job("map", "", job.make)])
    go.set()
    assert work.wait(20)
    assert [word for word in log if word != "told"] == ["map 0", "map 1"]


def test_a_job_that_fails_is_told_once(work, log):
    """Its error is reported, it is not tried again, and the others run."""
    wishes = [Job("bad", "", lambda between: 1 / 0), Job("good", "", lambda between: None)]
    work.want(wishes)
    assert work.wait(20)
    assert log == ["failed: division by zero", "told", "told"]


def test_stop_and_go_on(work, log):
    """What was stopped stays so while it is still wanted, until it may go on."""
    job, begun, go = paused("map", log, pieces=2)
    work.want([job])
    begun.wait(20)
    work.stop()
    go.set()
    assert work.wait(20)
    assert work.progress.held == 1
    work.want([job])
    assert work.wait(20)
    assert [word for word in log if word != "told"] == ["map 0"]
    assert work.is_held("map")
    work.go_on()
    assert work.wait(20)
    assert [word for word in log if word != "told"] == ["map 0", "map 0", "map 1"]
    assert work.progress.held == 0


def test_two_errands_of_one_key(work, log):
    """One that is added while the first runs waits its turn; of two that wait the newest stays."""
    first, begun, go = paused("page", log, pieces=2)
    work.add(first)
    assert begun.wait(20)
    for name in ("second", "third"):
        work.add(Job("page", "", lambda between, name=name: (between(), log.append(name))))
    go.set()
    assert work.wait(20)
    assert [word for word in log if word != "told"] == ["page 0", "page 1", "third"]


def test_nothing_that_is_done_is_held(work, log):
    """A wish and an errand that end after the stop are not begun again."""
    for put in (lambda job: work.want([job]), work.add):
        job, begun, go = paused("last piece", log)
        put(job)
        assert begun.wait(20)
        work.stop()
        go.set()
        assert work.wait(20)
        assert work.progress.held == 0
    work.go_on()
    assert work.wait(20)
    assert [word for word in log if word != "told"] == ["last piece 0"] * 2


def test_a_stopped_errand_is_replaced_by_a_newer_one(work, log):
    """What goes on after a stop is never older than what was asked for since."""
    old, begun, go = paused("page", log, pieces=2)
    work.add(old)
    assert begun.wait(20)
    work.stop()
    work.add(Job("page", "", lambda between: log.append("new")))
    go.set()
    assert work.wait(20)
    assert work.progress.held == 0
    assert [word for word in log if word != "told"] == ["page 0", "new"]


def test_what_code_no_longer_waits_for_is_not_held(work, log):
    """A stop ends the waiting with an error, and there is nothing to go on with."""
    job, begun, go = paused("asked", log, pieces=2)
    errors = []

    def ask():
        with pytest.raises(RuntimeError, match="the work was stopped"):
            work.ask("a sum", job.make)
        errors.append(True)

    asking = threading.Thread(target=ask)
    asking.start()
    assert begun.wait(20)
    work.stop()
    asking.join(20)
    go.set()
    assert work.wait(20)
    assert errors == [True]
    assert work.progress.held == 0


def test_code_that_asks_waits_for_its_answer(work, log):
    """ask() returns what was made or raises its error, and wants that are open come first."""
    job, begun, go = paused("map", log)
    work.want([job])
    begun.wait(20)
    go.set()
    assert work.ask("sum", lambda between: (log.append("asked"), 7)[1]) == 7
    assert [word for word in log if word != "told"] == ["map 0", "asked"]
    with pytest.raises(ZeroDivisionError):
        work.ask("", lambda between: 1 / 0)
    assert work.ask("", lambda _: work.ask("", lambda between: 3)) == 3  # in the thread itself
    work.close()
    assert work.ask("", lambda between: 5) == 5


def test_progress_is_said(work, log):
    """The share of a job that is done comes from the images that it passes through a model."""
    seen = []

    def make(between):
        between(30)
        seen.append(work.progress.share)
        between(10)
        seen.append(work.progress.share)

    work.want([Job("a", "occlusion of vit", make, expected=40), Job("b", "", lambda _: None)])
    assert work.wait(20)
    assert seen == [0.75, 1.0]
    assert work.progress.words == ""


@pytest.mark.parametrize("method", ["smoothgrad", "integratedgradients", "occlusion", "gradcam"])
def test_a_slow_map_can_be_stopped(method):
    """Explain stops between two passes, and leaves no hook and no gradient behind."""
    torch.manual_seed(0)
    model = create_model("vit", depth=1, embed_dim=48, num_heads=3).train()
    tile, passes = synthetic(n_per_class=1, seed=0)[0], []

    def between(count):
        passes.append(count)
        if len(passes) == 2:
            raise StoppedError

    if method == "gradcam":  # one pass: it is done before there is a second
        explain(model, tile, method, between=between, batch_size=4)
        assert passes == [1]
        return
    with pytest.raises(StoppedError):
        explain(model, tile, method, between=between, batch_size=4)
    assert max(passes) <= 4
    assert model.training
    assert not any(m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


_ENDS = """
import threading
import time
from lulc_lib.widgets.work import Job, StoppedError, Work

begun = threading.Event()

def make(between):
    begun.set()
    try:
        while True:
            between()
            time.sleep(0.01)
    except StoppedError:
        print("stopped", flush=True)
        raise

work = Work(lambda: None, print)
work.add(Job("long", "", make))
begun.wait(20)
"""


def test_a_process_that_ends_stops_its_work_first():
    """A script may end while work runs: the job is stopped between two pieces, not torn off."""
    ran = subprocess.run(
        [sys.executable, "-c", _ENDS], capture_output=True, text=True, timeout=120, check=False
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, "stopped"), ran.stderr


def test_memory_is_given_back_at_rest_but_not_after_each_job(monkeypatch, work, log):
    """The first rest returns what is free; the next within a minute does not, and jobs run on."""
    returned = []
    monkeypatch.setattr("lulc_lib.widgets.work.give_memory_back", lambda: returned.append(1))
    for name in ("one", "two"):
        work.want([Job(name, "", lambda between, name=name: log.append(name))])
        assert work.wait(20)
    assert returned == [1]
    assert [word for word in log if word != "told"] == ["one", "two"]
