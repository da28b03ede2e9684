"""Several processes train as one does: the same draws, the same steps, the same history."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytestmark = [pytest.mark.training, pytest.mark.slow]

JOB = '''
"""Train on drawn tiles; rank 0 writes the history and the weights."""
import json
import os
import sys

import lulc_lib as lulc


def job(out, name, accumulate=1):
    import torch

    rank = int(os.environ.get("RANK", 0))
    parts = lulc.split(lulc.synthetic(8, seed=1), "seed42")
    torch.manual_seed(rank)  # the first process's weights count
    if name == "vit":
        model = lulc.create_model("vit", depth=2, embed_dim=24, num_heads=2)
    else:
        model = lulc.create_model(name, image_size=32)
    config = lulc.RunConfig(
        model=name, epochs=5, batch_size=24, mixup=0.3, cutmix=1.0, erase=0.2, shift=2, ema=0.9,
        colour=0.2, clip_norm=1.0, accumulate=accumulate,
    )  # 10 steps
    history = lulc.fit(model, parts.train, parts.val, config, run_dir=out, progress=False)
    again = lulc.fit(model, parts.train, None, config, progress=False)  # a second run in one launch
    if rank == 0:
        torch.save(model.state_dict(), f"{out}/weights.pt")
        with open(f"{out}/history.json", "w") as file:
            json.dump([history.to_dict(), again.to_dict()], file)


if __name__ == "__main__":
    job(sys.argv[1], sys.argv[2], int(sys.argv[3]))
'''
NOTEBOOK = """
import sys
import torch
import lulc_lib as lulc
from job import job

x = torch.randn(600, 600)
for _ in range(5):
    x = torch.tanh(x @ x)  # threads are made: the parent is warm
print("threads", torch.get_num_threads(), lulc.synthetic(1).images.float().mean().item())
from accelerate import notebook_launcher
notebook_launcher(job, (sys.argv[1], "vit"), num_processes=2, use_port=sys.argv[2])
"""


def launch(folder, *command, threads=1, name="both"):
    """Run a command in a folder with job.py; return what rank 0 wrote, or the error text."""
    (folder / "job.py").write_text(JOB)
    (folder / "notebook.py").write_text(NOTEBOOK)
    out = folder / name
    out.mkdir()
    outside = {"WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}
    environment = {k: v for k, v in os.environ.items() if k not in outside}
    done = subprocess.run(
        [sys.executable, *(str(out) if word == "OUT" else word for word in command)],
        cwd=folder,
        env={**environment, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    written = out / "history.json"
    if not written.is_file():
        return done.stdout + done.stderr
    assert done.returncode == 0, done.stderr
    weights = torch.load(out / "weights.pt", weights_only=True)
    return [h["epochs"] for h in json.loads(written.read_text())], weights


def port():
    """Return a port that is free just now."""
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def accelerate(processes, *words):
    launcher = ["-m", "accelerate.commands.launch", "--num_processes", str(processes)]
    return [*launcher, "--main_process_port", port(), *words]


def figures(runs):
    kept = ("train_loss", "train_macro_f1", "val_loss", "val_macro_f1")
    return np.array([[row[key] for key in kept] for run in runs for row in run])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """History and weights of one process."""
    return launch(tmp_path_factory.mktemp("alone"), "job.py", "OUT", "vit", "1")


def test_gradient_accumulation_gives_the_history_of_whole_batches(alone, tmp_path):
    """Three parts a batch: the same draws, the same steps."""
    history, weights = launch(tmp_path, "job.py", "OUT", "vit", "3")
    assert np.allclose(figures(history), figures(alone[0]), atol=1e-5, equal_nan=True)
    assert all(torch.allclose(weights[k], alone[1][k], atol=1e-5) for k in weights)


def test_two_processes_give_the_history_of_one(alone, tmp_path):
    """`accelerate launch` with two processes, whose own seeds differ, over twice ten steps."""
    command = accelerate(2, "--multi_gpu", "job.py", "OUT", "vit", "1")
    history, weights = launch(tmp_path, *command)
    assert np.allclose(figures(history), figures(alone[0]), atol=1e-5, equal_nan=True)
    assert all(torch.allclose(weights[k], alone[1][k], atol=1e-5) for k in weights)


def test_a_warm_notebook_launches_two_processes(alone, tmp_path):
    """`notebook_launcher` forks a parent whose OpenMP threads are made, with two threads asked."""
    history, _ = launch(tmp_path, "notebook.py", "OUT", port(), threads=2)
    assert np.allclose(figures(history), figures(alone[0]), atol=1e-5, equal_nan=True)


def test_batch_norm_sees_smaller_batches_in_two_processes(tmp_path):
    """ResNet's statistics come from each process's part: near, not equal, as the page says."""
    one, _ = launch(tmp_path, "job.py", "OUT", "resnet18", "1", name="one")
    command = accelerate(2, "--multi_gpu", "job.py", "OUT", "resnet18", "1")
    two, _ = launch(tmp_path, *command, name="two")
    apart = np.abs(figures(one)[:5, 0] - figures(two)[:5, 0])
    assert 1e-5 < apart.max() < 0.5


def test_fewer_processes_than_asked_are_an_error(tmp_path):
    """Accelerate starts one process for `--cpu --num_processes 2`, and says nothing."""
    told = launch(tmp_path, *accelerate(2, "--cpu", "job.py", "OUT", "vit", "1"))
    assert "asked for several processes and started one" in told
    assert "--multi_gpu" in told


def test_more_parts_than_tiles_are_an_error(tmp_path):
    """Each process needs a tile for each of its parts."""
    command = accelerate(2, "--multi_gpu", "job.py", "OUT", "vit", "20")
    told = launch(tmp_path, *command)
    assert "24 tiles cannot be divided into 20 parts for each of 2 processes" in told


def test_the_command_trains_in_two_processes(tmp_path):
    """One of them speaks and writes the checkpoint."""
    words = "train --drawn --tiles-per-class 10 --model vit --epochs 1 --batch-size 20 --out OUT"
    command = accelerate(2, "--multi_gpu", "--module", "lulc_lib", *words.split())
    told = launch(tmp_path, *command)
    assert told.count("60 tiles: drawn tiles") == 1, told
    assert told.count("macro-F1") >= 1
    files = sorted(path.name for path in (tmp_path / "both").iterdir())
    assert files == [".lock", "both.json", "both.safetensors", "run.json", "state.pt"]


def test_the_page_gives_the_lines_that_are_tested_here():
    """docs/scaling.md and this file know the same ways of starting several processes."""
    page = (Path(__file__).parents[1] / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert re.search(r"accelerate launch --multi_gpu --num_processes \d+ ", page)
    assert "notebook_launcher(" in page
