"""What the benchmarks' pages say is what their scripts measured."""

import copy
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import f1_score

from lulc_lib.cards import names_in
from lulc_lib.checkpoints import read_card
from lulc_lib.config import History, RunConfig
from lulc_lib.drawn_tiles import synthetic
from lulc_lib.evidence import ReportCard
from lulc_lib.metrics import compare, evaluate
from lulc_lib.models import create_model
from lulc_lib.predictions import Predictions

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def experiments(monkeypatch):
    """The script that tries ideas for training."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import experiments

    yield experiments
    for name in (
        "experiments", "self_supervised", "learning_rates", "regions", "few_labels", "report_cards",
    ):  # fmt: skip
        del sys.modules[name]
    sys.modules.pop("recipes", None)


def test_the_table_of_experiments_is_the_measured_one(experiments):
    """docs/experiments.md holds the tables that the results give."""
    page = experiments.PAGE.read_text(encoding="utf-8")
    for kind, table in experiments.tables().items():
        first, last = experiments.MARKS[kind]
        assert page.partition(first)[2].partition(last)[0].strip() == table, kind
    assert set(experiments.measured()) <= set(experiments.IDEAS)


@pytest.mark.parametrize(
    ("word", "names"),
    {
        "helps": ("muon", "long", "small-patches", "cnn-muon"),
        "hurts": (
            "mixup",
            "cutmix",
            "erase",
            "conv-stem",
            "muon-conv-stem",
            "spatial-crop",
            "spatial-levelled",
        ),
        "no difference seen": (
            "base-again",
            "flip",
            "ema",
            "no-smoothing",
            "drop-path",
            "teacher",
            "contrast",
            "masked",
            "distillation",
            "cnn-progressive",
            "spatial-colour",
        ),
    }.items(),
)
def test_the_prose_says_what_the_rows_say(experiments, word, names):
    """The verdicts that docs/experiments.md speaks of are those of the measured rows."""
    rows = experiments.measured()
    for name in names:
        beside = experiments.held_to(name, rows)
        assert experiments.verdict(rows[name]["val_macro_f1"] - beside) == word, name


def test_rows_are_held_to_several_seeds_of_the_base(experiments):
    """The base's mean is of three seeds, trained with the base's own settings."""
    rates = experiments.learning_rates
    rows = [rates.measured()[rates.name_of("vit", 1e-3, seed)] for seed in (42, 43, 44)]
    mean = np.mean([row["val_macro_f1"]["value"] for row in rows])
    assert experiments.held_to("mixup", {}) == pytest.approx(mean)
    row = f"| {experiments.IDEAS['base-again'].idea} | 0.8757 | {0.8757 - mean:+.4f} |"
    assert row in experiments.PAGE.read_text(encoding="utf-8")
    without = {"save_every": 1, "best_by": "loss"}  # they move no weight
    settings = [rates.config_of("vit", 1e-3, 42, "bfloat16"), experiments.config_of("base")]
    assert len({dataclasses.replace(one, **without) for one in settings}) == 1
    assert rates.TILES == experiments.TILES
    assert experiments.held_to("cnn-small", {"cnn": {"val_macro_f1": 0.5}}) == 0.5
    assert experiments.held_to("cnn-small", {}) is None


def test_each_experiment_changes_the_base(experiments):
    """All settings are valid, and each idea changes something."""
    base = experiments.config_of("base")
    for name, idea in experiments.IDEAS.items():
        changed = experiments.config_of(name) != base or idea.network or idea.pretrain
        assert changed or name == "base", name


def test_a_page_is_written_between_its_marks(experiments, tmp_path, monkeypatch):
    """What stands around the table stays; the base's own row differs from it by nothing."""
    page, results = tmp_path / "page.md", tmp_path / "rows.json"
    each = [f"{first}\nold\n{last}\n" for first, last in experiments.MARKS.values()]
    page.write_text(f"before\n{each[0]}between\n{''.join(each[1:])}after\n")
    rows = {
        "mixup": {"val_macro_f1": 0.82, "minutes": 3.0, "machine": "x86_64, one, 1 threads"},
        "base": {"val_macro_f1": 0.8, "minutes": 2.0, "machine": "x86_64, two, 2 threads"},
    }
    results.write_text(json.dumps(rows))
    monkeypatch.setattr(experiments, "PAGE", page)
    monkeypatch.setattr(experiments, "RESULTS", results)
    monkeypatch.setattr(experiments, "held_to", lambda name, rows: 0.8)
    experiments.write_page()
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "between\n" in text
    row = "| resnet50 | seed42/train | 1 | 29 | 64 px, 128 px | adamw, onecycle with peak 0.002, "
    assert row in text
    assert "| 0.8000 | +0.0000 | 2.0 |  |" in text
    assert "| mixup | mixup 0.2 | 0.8200 | +0.0200 | 3.0, one core | helps |" in text


def test_a_pause_costs_an_experiment_no_minutes(experiments):
    """Each size's fastest epoch stands for the others of its size."""
    epochs = [{"size": 64, "seconds": s} for s in (9.0, 2.0, 3.0)]
    assert experiments.undisturbed([*epochs, {"size": 128, "seconds": 8.0}]) == 14.0


@pytest.mark.training
@pytest.mark.parametrize("way", ["masked", "contrast", "distillation"])
def test_training_without_labels_learns_and_leaves_a_classifier(experiments, way):
    """The loss falls, the ViT's weights move, and its head stays as it was."""
    from self_supervised import WAYS, pretrain

    tiles = synthetic(n_per_class=8, seed=0)
    torch.manual_seed(0)
    model = create_model("vit", depth=1, embed_dim=48)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    config = RunConfig(model="vit", epochs=1, batch_size=40, learning_rate=1e-3, seed=1)
    first = pretrain(way, create_model("vit", depth=1, embed_dim=48), tiles.images, config)
    last = pretrain(way, model, tiles.images, dataclasses.replace(config, epochs=20))
    assert last < 0.95 * first
    assert torch.equal(model.network.head.weight, before["network.head.weight"])
    moved = model.network.blocks[0].attn.qkv.weight - before["network.blocks.0.attn.qkv.weight"]
    assert moved.abs().max() > 1e-4
    assert model(tiles.images[:2] / 255).shape == (2, 10)
    if way == "masked":
        with pytest.raises(ValueError, match="not a ViT of patch tokens alone"):
            WAYS[way](create_model("resnet18"))


def test_the_page_says_what_a_teacher_was_worth(experiments):
    """Paired differences and late validation figures are those of the trainings that are kept."""
    folder = BENCHMARKS.parent / "checkpoints"
    page = " ".join(experiments.PAGE.read_text(encoding="utf-8").split())
    taught = experiments.answers("vit_taught")
    words_of = {"vit-42": "with the seed 42", "vit": "with 43", "vit-44": "with 44"}
    for name, words in words_of.items():
        lead = compare(taught, experiments.answers(name)).macro_f1
        assert f"by {lead:+.3f} [{lead.low:+.3f}, {lead.high:+.3f}] {words}" in page, name
    for name in ("vit_spatial", "vit"):
        score = read_card(folder / name).metrics["macro_f1"]
        assert "{value:.3f} [{low:.3f}, {high:.3f}]".format(**score) in page, name
    cards = experiments.trainings()
    late = {name: [row["val_macro_f1"] for row in cards[name].history["epochs"][41:]]
            for name in ("vit-42", "vit", "vit-44")}  # fmt: skip
    for name in ("vit-42", "vit-44"):
        low, high = min(late[name]), max(late[name])
        said = f"between {low:.3f} and {high:.3f}"
        assert f"of `{name}` stayed {said}" in page or f"that of `{name}` {said}" in page, name
    assert f"that of `vit` rose from {late['vit'][0]:.3f} to {late['vit'][-1]:.3f}" in page


def test_the_shipped_vit_has_the_best_validation_score_of_its_trainings(experiments):
    """The choice was made by validation; README, card and recipe tell the mean of all three."""
    import recipes

    cards = experiments.of_one_recipe()["vit"]
    best = {seed: History.from_dict(card.history).best["val_macro_f1"]
            for seed, card in cards.items()}  # fmt: skip
    assert sorted(cards) == [42, 43, 44]
    chosen = max(best, key=best.get)
    assert cards[chosen].name == "vit"
    tests = [card.metrics["macro_f1"]["value"] for card in cards.values()]
    mean, spread = f"{np.mean(tests):.3f}", f"{np.std(tests, ddof=1):.3f}"
    readme = " ".join((BENCHMARKS.parent / "README.md").read_text(encoding="utf-8").split())
    assert f"the three have a mean test macro-F1 of {mean}." in readme
    notes = cards[chosen].notes
    assert f"mean macro-F1 of {mean} with a standard deviation of {spread}" in notes
    assert notes == recipes.RECIPES["vit"].notes


def test_figures_of_trainings_that_are_not_shipped_are_those_of_their_logits(experiments):
    """Of each, the test score of its card can be computed anew from what it answered."""
    names = sorted(set(experiments.trainings()) - set(names_in(BENCHMARKS.parent / "checkpoints")))
    assert names
    for name in names:
        card = experiments.trainings()[name]
        assert card.name == name
        with np.load(BENCHMARKS / "results" / "logits" / f"{name}.npz") as file:
            facts = json.loads(str(file["facts"]))
            found = {}
            for part in ("val", "test"):
                assert facts[part][1] == card.data["part"].replace("train", part)
                logits = file[f"{part}_logits"].astype(np.float32)
                labels = file[f"{part}_labels"].astype(np.int64)
                assert len(labels) == len(logits)
                found[part] = f1_score(labels, logits.argmax(1), average="macro")
        assert found["test"] == pytest.approx(card.metrics["macro_f1"]["value"], abs=3e-4), name
        best = History.from_dict(card.history).best["val_macro_f1"]  # as trained, in bfloat16
        assert found["val"] == pytest.approx(best, abs=1e-3), name


def test_short_trainings_have_the_figures_of_their_kept_logits(experiments):
    """Rates, regions and the ideas whose logits are kept, each on the tiles of its own split."""
    rates, regions = experiments.learning_rates.measured(), experiments.regions.measured()
    found = {
        name: (row["val_macro_f1"]["value"], f"{'spatial' if name in regions else 'seed42'}/val")
        for name, row in (rates | regions).items()
    }
    for name, row in experiments.measured().items():
        if (experiments.LOGITS / f"idea-{name}.npz").is_file():
            found[f"idea-{name}"] = (row["val_macro_f1"], f"{experiments.IDEAS[name].split}/val")
    assert len(found) >= 36
    for name, (figure, part) in found.items():
        with np.load(experiments.LOGITS / f"{name}.npz") as kept:
            said = kept["logits"].argmax(axis=1)
            assert f1_score(kept["labels"], said, average="macro") == pytest.approx(
                figure, abs=5e-4
            )  # logits are halved in precision, so that near ties may fall the other way
            assert json.loads(str(kept["facts"]))["part"] == part


def test_a_difference_of_means_has_welchs_interval(experiments):
    """As SciPy's, with the degrees of freedom rounded down; so never shorter."""
    rng = np.random.default_rng(0)
    for spread in (1, 3, 30):
        first, second = rng.normal(1, 1, 3), rng.normal(0, spread, 3)
        more, half = experiments.regions.difference(first, second)
        known = stats.ttest_ind(first, second, equal_var=False)
        assert more == pytest.approx(first.mean() - second.mean())
        error = more / known.statistic
        reach = stats.t.ppf(0.975, np.floor(known.df)) * abs(error)
        assert half == pytest.approx(reach, rel=1e-3)
        assert half >= np.diff(known.confidence_interval(0.95))[0] / 2


def test_the_page_says_how_the_runs_after_the_first_vit_ended(experiments):
    """Validation figures in the text are those of the kept logits."""
    page = " ".join(experiments.PAGE.read_text(encoding="utf-8").split())
    found, right = {}, {}
    means = ("mean_of_two", "mean_of_three", "constant", "constant_cropped")
    means += ("cropped_longer", "mean_with_longer")
    for name in ("alone", "alone_train", "cropped", "sam", *means):
        with np.load(BENCHMARKS / "results" / "logits" / f"vit_{name}.npz") as kept:
            part = "train" if name.endswith("train") else "val"
            assert json.loads(str(kept["facts"]))["part"] == f"seed42/{part}"
            labels, logits = kept["labels"].astype(np.int64), kept["logits"].astype(np.float32)
        predictions = Predictions(logits, labels, tuple(map(str, range(len(labels)))))
        found[name] = evaluate(predictions, resamples=1).macro_f1.value, predictions.losses.mean()
        right[name] = predictions.correct.mean()
    assert f"right on {right['alone_train']:.2%}".replace("%", " %") in page
    assert f"and on {right['alone']:.1%}".replace("%", " %") + " of the validation tiles" in page
    assert f"weights (validation macro-F1 {found['alone'][0]:.4f})" in page
    assert f"in the recipes) it ended at {found['cropped'][0]:.4f}" in page
    assert f"not kept in the library) it ended at {found['sam'][0]:.4f}" in page
    (two, loss), (three, least) = found["mean_of_two"], found["mean_of_three"]
    assert f"have {two:.4f} and a lower validation loss ({loss:.3f} against" in page
    assert f"against {found['alone'][1]:.3f}), with the other run's" in page
    assert f"weights as well {three:.4f} ({least:.3f})" in page
    assert f"At 0.001 the mean of 13 epochs has {found['constant'][0]:.4f}, at" in page
    assert f"that of 12 has {found['constant_cropped'][0]:.4f}: less than" in page
    assert f"averaged at 0.9995 ended at {found['cropped_longer'][0]:.4f}, and with" in page
    assert f"minimisation its mean has {found['mean_with_longer'][0]:.4f}. So of five" in page
    runs = ("cropped", "sam", "constant", "constant_cropped", "cropped_longer")
    lead = max(found[name][0] for name in runs) - found["alone"][0]
    assert f"none ended more than {lead:.4f} above it on" in page
    best = max(found[name][0] for name in means if name.startswith("mean"))
    assert f"means of weights end at {best:.3f} at most" in page


def test_the_evaluation_is_the_measured_one(monkeypatch):
    """docs/evaluation.md is what its results give, and these agree with the cards."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import evaluation

    result = json.loads(evaluation.RESULTS.read_text())
    assert evaluation.PAGE.read_text(encoding="utf-8") == evaluation.page(result)
    folder = BENCHMARKS.parent / "checkpoints"
    assert sorted(result["models"]) == names_in(folder)
    for name, found in result["models"].items():
        for key in ("macro_f1", "accuracy", "ece"):
            stated = read_card(folder / name).metrics[key]["value"]
            assert found[key]["value"] == pytest.approx(stated, abs=1e-3), (name, key)
    del sys.modules["evaluation"]


def test_the_report_cards_were_repeated_on_other_tiles():
    """Each measured claim holds, of the explanation that the shipped card recommends.

    That it has the best mean rank may fail by chance; benchmarks/README.md must then say where.
    """
    result = json.loads((BENCHMARKS / "results" / "report_cards.json").read_text())
    folder = BENCHMARKS.parent / "checkpoints"
    cards = {path.name.partition(".")[0] for path in folder.glob("*.report.json")}
    assert set(result) == cards
    for name, found in result.items():
        card = ReportCard.from_json(folder / f"{name}.report.json")
        assert not card.quick, f"{name}: a shipped card is a full one"
        best = card.recommended
        assert found["recommended"] == [best.method, best.layer], name
        own = found["mean ranks"][" at ".join(filter(None, found["recommended"]))]
        strict = found["claims"].pop("best mean rank")
        assert strict == (own == min(found["mean ranks"].values())), name
        assert set(found["claims"].values()) == {True}, (name, found["claims"])
        if not strict:
            ahead = {other: ends for other, ends in found["ranks behind"].items() if ends[0] > 0}
            page = (BENCHMARKS / "README.md").read_text()
            for other, (value, low, high) in ahead.items():
                assert f"by {value:.2f} [{low:.2f}, {high:.2f}] mean ranks" in page, other


def test_a_report_card_keeps_its_figures_in_bfloat16():
    """What the page says of card_precision.py follows from the rows that it kept."""
    kept = json.loads((BENCHMARKS / "results" / "card_precision.json").read_text())
    moves = [
        abs(row["bfloat16"] - row["float32"]) / row["half_interval"]
        for row in kept["rows"]
        if row["half_interval"]
    ]
    assert set(kept["claims"].values()) == {True}
    assert max(moves) == pytest.approx(kept["largest_move_in_half_intervals"], abs=2e-3)
    page = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    share = kept["minutes"]["bfloat16"] / kept["minutes"]["float32"]
    assert f"measured: {max(moves):.2f} of a half interval at most, in {share:.2f} of" in page


@pytest.mark.parametrize("name", names_in(BENCHMARKS.parent / "checkpoints"))
def test_the_kept_logits_are_the_shipped_models(name):
    """They name the weights they came from, give the card's figures, and float16 changed little."""
    folder = BENCHMARKS.parent / "checkpoints"
    card = read_card(folder / name)
    with np.load(folder / f"{name}.predictions.npz") as kept:
        facts = json.loads(str(kept["facts"]))
        names, labels = kept["names"], kept["labels"].astype(np.int64)
        logits = kept["logits"]
    assert facts["weights_sha256"] == card.weights_sha256
    part = card.data["part"].replace("train", "test")
    assert (facts["digest"], facts["part"]) == (card.metrics["digest"], part)
    assert facts["float16_agrees"] >= 0.999
    assert len(set(names)) == card.metrics["n"] == 5400
    assert not set(names) & set(card.trained_on().names)
    report = evaluate(Predictions(logits, labels, tuple(names)), resamples=10)
    assert float(report.macro_f1) == pytest.approx(card.metrics["macro_f1"]["value"], abs=5e-4)


def test_the_pages_tell_the_measured_training():
    """What docs/scaling.md says of two processes is what the benchmark found; its claims hold."""
    found = json.loads((BENCHMARKS / "results" / "training.json").read_text())
    page = " ".join((BENCHMARKS.parent / "docs" / "scaling.md").read_text().split())
    for name in ("vit", "resnet50"):
        one, two = found["processes"][name]["one"], found["processes"][name]["two"]
        assert f"{one:.3f} in one process and {two:.3f} in two" in page, name
    assert f"takes {found['fused_over_plain_attention']:.1f} times as long" in page
    assert f"takes {found['allocator']:.2f} times as long" in page
    short = [name for name, least in found["wanted"].items() if found[name]["ratio"] < least]
    assert short == []


def test_the_readme_tells_the_measured_memory():
    """A page of the app takes what the benchmark found; explorer and app hold their bars."""
    app = json.loads((BENCHMARKS / "results" / "app.json").read_text())
    readme = " ".join((BENCHMARKS.parent / "README.md").read_text().split())
    most = max(app["first_mb"], app["page_mb"])
    assert f"a kernel of its own, of about {most / 1000:.1f} GB" in readme
    assert most <= app["wanted"]["page_mb"]
    explorer = json.loads((BENCHMARKS / "results" / "explorer.json").read_text())
    for found in (app, explorer):
        short = [name for name, most in found["wanted"].items() if found[name] > most]
        assert short == []


REPORT = """<testsuites><testsuite errors="1" failures="2" skipped="3" tests="26">
{cases}
<testcase classname="tests.test_notebooks" name="test_full[00_start]" time="61.25" />
<testcase classname="tests.test_notebooks" name="test_form[00_start]" time="0.5" />
</testsuite></testsuites>"""


@pytest.fixture
def suite(monkeypatch, tmp_path):
    """The script that measures the tests, with a file of results of its own."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import suite

    monkeypatch.setattr(suite, "RESULTS", tmp_path / "suite.json")
    yield suite
    del sys.modules["suite"]


def test_the_suites_report_is_read(suite, tmp_path):
    """Passed are those that neither failed nor were skipped; the ten slowest come first."""
    cases = [f'<testcase classname="a" name="t{i}" time="{i}" />' for i in range(20)]
    (tmp_path / "report.xml").write_text(REPORT.format(cases="\n".join(cases)))
    found = suite.read_report(tmp_path / "report.xml")
    assert (found["passed"], found["failed"], found["skipped"]) == (20, 3, 3)
    slowest = list(found["slowest_seconds"].items())
    assert slowest[0][0] == "tests.test_notebooks::test_full[00_start]"
    assert slowest[1:] == [(f"a::t{i}", float(i)) for i in range(19, 10, -1)]
    assert found["notebook_seconds"] == {"00_start": 61.2}


@pytest.mark.parametrize(
    ("change", "holds"),
    [
        ({}, True),
        ({"wall_seconds": 3601.0}, False),
        ({"fast_bfloat16": True}, False),
        ({"fast_bfloat16": True, "wall_seconds": 1499.0}, True),
        ({"failed": 1}, False),
        ({"exit_code": 2}, False),
    ],
)
def test_a_run_is_held_to_the_bar_of_its_processor(suite, monkeypatch, capsys, change, holds):
    """Sixty minutes without fast bfloat16, 25 with it; a failure misses; nothing is run to tell."""
    found = {"wall_seconds": 3599.0, "exit_code": 0, "passed": 9, "failed": 0, "skipped": 0}
    found |= {"slowest_seconds": {"a::t": 12.0}, "processor": "AVX2 alone", "fast_bfloat16": False}
    found |= {"cores": 2, "tiles": "EuroSAT", **change}
    suite.RESULTS.write_text(json.dumps({"test": found}))
    monkeypatch.setattr(suite, "run", None)  # calling it would be an error
    monkeypatch.setattr(sys, "argv", ["suite.py"])
    assert suite.main() == (0 if holds else 1)
    told = capsys.readouterr().out
    assert "make test: " in told
    assert "12.0 s  a::t" in told


def test_one_run_replaces_only_its_own_figures(suite, monkeypatch):
    """`suite.py quick` keeps what was measured of `make test`."""

    def run(target, report):
        report.write_text(REPORT.format(cases="").replace('"1"', '"0"').replace('"2"', '"0"'))
        return 120.0, 200.0, 0

    monkeypatch.setattr(suite, "run", run)
    monkeypatch.setattr(sys, "argv", ["suite.py", "quick"])
    suite.RESULTS.write_text('{"test": {"wall_seconds": 1}}')
    assert suite.main() == 0
    kept = json.loads(suite.RESULTS.read_text())
    assert kept["test"] == {"wall_seconds": 1}
    assert (kept["quick"]["wall_seconds"], kept["quick"]["passed"]) == (120.0, 23)


@pytest.fixture
def clever_hans(monkeypatch):
    """The script that tells networks with a planted cue from their twins."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import clever_hans

    yield clever_hans
    del sys.modules["clever_hans"]


def test_the_cue_was_found_in_every_planted_network_and_in_no_twin(clever_hans):
    """The measured verdicts hold the bars, and the networks were what they were said to be."""
    found = json.loads(clever_hans.RESULTS.read_text())
    assert found["wanted"] == clever_hans.WANTED
    assert set(found["families"]) == set(clever_hans.FAMILIES)
    for name, family in found["families"].items():
        assert {key: family[key] for key in clever_hans.WANTED} == clever_hans.WANTED, name
        assert family["method"] == clever_hans.FAMILIES[name].method
        for rows in family["by_seed"].values():
            assert rows["planted"]["follows_cue"] >= 0.5 >= 0.1 >= rows["twin"]["follows_cue"]
            assert rows["planted"]["accuracy_without_cue"] <= 0.3
            assert rows["twin"]["accuracy_without_cue"] >= 0.6
            for row in rows.values():
                assert row["flagged_by_card"] == row["verdict"]["found"]
            drawn = [next(iter(rows[kind]["drawn_evidence"].values())) for kind in rows]
            assert drawn[0][0] < drawn[1][0]  # a planted network learnt nothing of it
            evidence = [row["drawn_evidence"] for row in rows.values()]
            assert max(one[null][0] for one in evidence for null in ("centre", "blur")) > 0.6


def test_cues_of_other_classes_become_the_labels(clever_hans):
    """A planted network's labels are those of the cues, and say nothing about the tile."""
    plain = synthetic(4, seed=0)
    planted = clever_hans.with_foreign_cues(plain, seed=1)
    assert planted.class_counts() == plain.class_counts()
    assert 0.0 <= (planted.labels == plain.labels).float().mean() < 0.4
    colours = clever_hans.plant(plain, planted.labels, seed=1)
    assert torch.equal(colours.images, planted.images)


@pytest.mark.slow
@pytest.mark.training
def test_maps_alone_tell_a_clever_hans_from_its_twin(clever_hans):
    """One pair with a seed of its own: the planted network is found out, and the twin is not."""
    family = clever_hans.FAMILIES["ViT, averaged tokens"]
    found = clever_hans.pair(family, synthetic(100, seed=11), synthetic(8, seed=12), seed=9)
    assert found["planted"]["verdict"]["found"]
    assert not found["twin"]["verdict"]["found"]
    assert [found[kind]["flagged_by_card"] for kind in ("planted", "twin")] == [True, False]
    assert found["planted"]["follows_cue"] > 0.7 > 0.4 > found["twin"]["follows_cue"]


@pytest.fixture
def chance(monkeypatch):
    """The scripts of few labels and of colour floors."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import colour_floors
    import few_labels

    yield few_labels, colour_floors
    del sys.modules["few_labels"], sys.modules["colour_floors"]


def test_fewer_labels_are_part_of_more(chance):
    """A draw has as many tiles of each class; its smaller sets lie in its larger ones."""
    few_labels, _ = chance
    tiles = synthetic(8, seed=0)
    small, large = (few_labels.drawn(tiles, each, draw=1) for each in (2, 5))
    assert set(small.class_counts().values()) == {2}
    assert {*small.names} < {*large.names}
    assert small.names != few_labels.drawn(tiles, 2, draw=2).names
    steps = [few_labels.config_of(10 * each, 0, "float32") for each in few_labels.EACH]
    pairs = zip(steps, few_labels.EACH, strict=True)
    taken = [one.epochs * (10 * each // one.batch_size) for one, each in pairs]
    assert min(taken) > 0.9 * max(taken)


def test_histograms_are_shares_that_ignore_places(chance):
    """The bins of a channel add up to 1, and a turned tile has the same; the floors use them."""
    _, colour_floors = chance
    tiles = synthetic(4, seed=0)
    shares = colour_floors.histograms(tiles)
    np.testing.assert_allclose(shares.reshape(len(tiles), 3, -1).sum(axis=2), 1, atol=1e-6)
    turned = dataclasses.replace(tiles, images=tiles.images.flip(2))
    np.testing.assert_allclose(colour_floors.histograms(turned), shares, atol=1e-6)
    black = dataclasses.replace(tiles, images=torch.zeros_like(tiles.images))
    assert colour_floors.histograms(black)[:, :: colour_floors.BINS].min() == 1
    row = colour_floors.score("histograms, logistic regression", tiles, synthetic(2, seed=1))
    assert row["macro_f1"]["value"] > 0.2
    assert row["n"] == 20


def test_the_measured_floors_lie_where_notebook_01_has_them(chance):
    """The first floor is `colour_baseline`, whose figures notebook 01 checks; all beat guessing."""
    _, colour_floors = chance
    rows = json.loads(colour_floors.RESULTS.read_text())
    first = next(iter(colour_floors.FLOORS))
    assert rows["seed42"][first]["macro_f1"]["value"] == pytest.approx(0.65, abs=0.01)
    assert rows["spatial"][first]["macro_f1"]["value"] == pytest.approx(0.54, abs=0.01)
    assert all(row["macro_f1"]["low"] > 0.2 for floors in rows.values() for row in floors.values())
    assert list(rows["seed42"]) == list(colour_floors.FLOORS)


def test_notebook_01_tells_the_measured_floors(chance):
    """Its answer gives the lowest and the highest of the five floors on either split, and whose."""
    _, colour_floors = chance
    rows = json.loads(colour_floors.RESULTS.read_text())
    cells = json.loads((BENCHMARKS.parent / "notebooks" / "01_explore_eurosat.ipynb").read_text())
    prose = "".join("".join(cell["source"]) for cell in cells["cells"])
    ends = []
    for of in ("seed42", "spatial"):
        floors = {name: row["macro_f1"]["value"] for name, row in rows[of].items()}
        assert len(floors) == 5
        assert max(floors, key=floors.get) == "histograms, random forest"
        ends.append(f"{min(floors.values()):.2f} to {max(floors.values()):.2f}")
    assert f"macro-F1 of {ends[0]} on the test tiles of `seed42` and {ends[1]} on those" in prose


def test_the_mean_of_weights_lies_in_the_middle(monkeypatch):
    """The mean of a model and one with all weights moved by 2 is moved by 1; neither is changed."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import recipes

    monkeypatch.delitem(sys.modules, "recipes")
    one = create_model("vit", depth=1, embed_dim=48)
    other = copy.deepcopy(one)
    with torch.no_grad():
        for weight in other.parameters():
            weight += 2
    made = recipes.mean_of_weights([one, other])
    for name, weight in one.named_parameters():
        assert torch.allclose(made.get_parameter(name), weight + 1), name
        assert torch.equal(other.get_parameter(name), weight + 2), name


def test_levelled_tiles_have_the_colours_of_the_data_set(experiments):
    """Each channel of each tile gets the same mean and deviation; a flat one stays flat."""
    tiles = synthetic(1, seed=0)
    flat = tiles.images.clone()
    flat[0] = 7
    found = experiments.levelled(dataclasses.replace(tiles, images=flat)).images.float() / 255
    deviation, mean = torch.std_mean(found[1:], dim=(2, 3))
    assert torch.allclose(mean, torch.tensor(experiments.EUROSAT_MEAN).expand_as(mean), atol=0.03)
    assert torch.allclose(deviation, torch.tensor(experiments.EUROSAT_STD).expand_as(deviation),
                          atol=0.05)  # fmt: skip
    assert found[0].std(dim=(1, 2)).max() == 0
