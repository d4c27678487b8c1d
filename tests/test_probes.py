"""Probes: ridge regression against numpy and the definition, ranks, networks, mixes of layers."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from commandline import call, data_root, tiny
from families import tiny_model, tiny_tokenizer
from runs import carry_out, configure, history
from safetensors.torch import load_file
from transformers import set_seed

from adaptkit.adaptation import Adaptation, Context
from adaptkit.errors import ConfigError
from adaptkit.layers.probing import RIDGE, Probing, ScalarMix, classifier
from adaptkit.methods.probe import Probe
from adaptkit.models.loading import head_names, load_config, load_model
from adaptkit.models.model import Model


def probe_of(width: int) -> Probing:
    """Return a probe whose body is never run."""
    from transformers import BertConfig

    config = BertConfig(hidden_size=width, num_labels=1)
    body = torch.nn.Linear(1, 1)
    return Probing(body, config, "mean", -1, False, torch.Generator().manual_seed(0))


def by_hand(features: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Return W, b and lambda: each row is left out in turn, and the normal equations are solved."""

    def fit(x: np.ndarray, y: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
        middle = x.mean(0)
        x = x - middle
        gram = x.T @ x + penalty * np.eye(x.shape[1])
        weight = np.linalg.solve(gram, x.T @ (y - y.mean()))
        return weight, y.mean() - weight @ middle

    mean, scale = features.mean(0), features.std(0)
    x, best = (features - mean) / scale, (-2.0, 0.0)
    for share in RIDGE:
        out = []
        for row in range(len(x)):
            rest = np.arange(len(x)) != row
            weight, bias = fit(x[rest], targets[rest], share * len(x))
            out.append(x[row] @ weight + bias)
        best = max(best, (np.corrcoef(out, targets)[0, 1], share))
    weight, bias = fit(x, targets, best[1] * len(x))
    return weight / scale, bias - (weight / scale) @ mean, best[1]


@pytest.mark.parametrize(("rows", "width", "noise"), [(60, 5, 0.0), (60, 5, 2.0), (12, 20, 1.0)])
def test_ridge_regression_with_the_best_left_out_row(rows, width, noise):
    random = np.random.default_rng(3)
    features = random.normal(size=(rows, width)) * random.uniform(0.1, 9, width) + 4
    targets = features[:, 0] - 2 * features[:, 1] + noise * random.normal(size=rows) * 5
    probe = probe_of(width)
    penalty = probe.solve(torch.from_numpy(features), torch.from_numpy(targets))
    weight, bias, expected = by_hand(features, targets)
    assert penalty == pytest.approx(expected)
    assert probe.head.weight[0].detach().numpy() == pytest.approx(weight, rel=1e-4, abs=1e-6)
    assert probe.head.bias.item() == pytest.approx(bias, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("constant", [True, False])
def test_few_rows_and_constant_features(rows, constant):
    targets = torch.arange(rows) * 2.0
    features = torch.ones(rows, 4) if constant else torch.randn(rows, 4)
    probe = probe_of(4)
    probe.solve(features, targets)
    assert all(p.isfinite().all() for p in probe.head.parameters())
    assert probe.head(features).mean().item() == pytest.approx(targets.mean().item(), abs=1e-5)
    probe.solve(features, torch.full((rows,), 3.0))
    assert probe.head(features).flatten().tolist() == pytest.approx([3.0] * rows, abs=1e-5)


WORDS = ("good", "bad", "film", "dull", "great")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """DIR with rows whose number is what a word adds."""
    folder, random = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    for split, count in (("train", 40), ("validation", 20)):
        lines = []
        for words in random.choice(WORDS, (count, 3)):
            label = float(sum((word in ("good", "great")) - (word == "bad") for word in words))
            lines.append({"sentence1": "the film", "sentence2": " ".join(words), "label": label})
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_a_run_solves(family, checkpoints, pairs, tmp_path):
    """The head is by_hand's, whether features may be kept or not; no update is made."""
    from adaptkit.runs.delta import load_run
    from adaptkit.runs.prepare import feed_of, restored, scorer_of

    for cache in ("auto", "never"):
        settings = configure(
            tmp_path / cache, checkpoints[family], pairs, "task=stsb", "method=probe",
            **{"trainer.cache_frozen": cache},
        )  # fmt: skip
        record, said = carry_out(settings)
        assert any(line.startswith("solved by ridge regression") for line in said)
        assert record["updates"] == 0
        assert len(history(tmp_path / cache)) == 1
    weights = load_file(tmp_path / "auto" / "delta.safetensors")
    other = load_file(tmp_path / "never" / "delta.safetensors")
    assert all(torch.equal(tensor, other[name]) for name, tensor in weights.items())
    saved = load_run(tmp_path / "auto")
    rows = saved.settings.task.load(saved.settings.data, 0).train
    prepared = restored(saved)
    feed = scorer_of(saved.settings, prepared).cached(feed_of(saved.settings, prepared, rows))
    features = torch.stack(feed.features).double().numpy()
    weight, bias, _ = by_hand(features, np.array(rows["label"][:]))
    predicted = features @ weight + bias
    found = features @ weights["head.weight"][0].double().numpy() + weights["head.bias"].item()
    assert found == pytest.approx(predicted, abs=1e-3)


def test_where_updates_are_made(checkpoints, pairs, tmp_path):
    """A penalty has no solution; classes have none; without updates nothing is fitted."""
    common = checkpoints["bert"], pairs
    penalised = configure(
        tmp_path / "p", *common, "task=stsb", "method=probe", "regularizer=[l2_sp]"
    )
    record, said = carry_out(penalised)
    assert record["updates"] == 15
    assert not any("ridge" in line for line in said)
    still = configure(
        tmp_path / "s", *common, "task=stsb", "method=probe", **{"trainer.max_steps": 0}
    )
    record, said = carry_out(still)
    assert not any("ridge" in line for line in said)
    first = load_file(tmp_path / "s" / "delta.safetensors")["head.weight"]
    assert first.abs().max() <= 1 / first.shape[1] ** 0.5


# ---- other classifiers than one linear map ----


@pytest.mark.parametrize(
    ("options", "width", "outputs", "count"),
    [
        ({}, 768, 45, 34_605), ({}, 1024, 45, 46_125), ({}, 768, 17, 13_073),
        ({"hidden": 1000}, 768, 45, 814_045), ({"hidden": 10}, 768, 45, 8_185),
        ({"hidden": 1000}, 1024, 45, 1_070_045),
        ({"classifier": "mlp"}, 768, 45, 814_045),
        ({"classifier": "mlp", "hidden_layers": 2}, 768, 45, 1_815_045),
    ],
)  # fmt: skip
def test_counts_of_hewitt_and_liang(options, width, outputs, count):
    inner = Probe(**options).inner
    made = classifier([width, *inner, outputs], False, 0.0, torch.device("meta"))
    assert sum(p.numel() for p in made.parameters()) == count


def test_a_rank_limited_map_is_linear_and_an_mlp_is_the_formula():
    x = torch.randn(5, 4)
    for nonlinear in (False, True):
        first, *between, second = classifier([4, 3, 2], nonlinear, 0.0, torch.device("cpu"))
        inner = first(x).relu() if nonlinear else first(x)
        expected = inner @ second.weight.T + second.bias
        torch.testing.assert_close(torch.nn.Sequential(first, *between, second)(x), expected)
        assert len(between) == nonlinear


def test_the_mix_of_layers():
    """h = (1, 0), (0, 1), (2, 2): uniform (1, 1); w = (0, 1, 0) with gamma 2: (1.27165, 2)."""
    mix = ScalarMix(3, torch.device("cpu"))
    states = torch.tensor([[1.0, 0.0, 0.0, 1.0, 2.0, 2.0]])
    torch.testing.assert_close(mix(states), torch.tensor([[1.0, 1.0]]))
    mix.weights.data.copy_(torch.tensor([0.0, 1.0, 0.0]))
    mix.gamma.data.fill_(2.0)
    torch.testing.assert_close(mix(states), torch.tensor([[1.27165, 2.0]]), atol=1e-5, rtol=0)


def test_the_mix_reads_every_layer(checkpoints):
    model = tiny_model("bert")
    probes = {
        mix: Probe(mix=mix, layer=-1 if mix else 2).adapt(
            Adaptation.of(copy.deepcopy(model), head_names(model)),
            Context(None, torch.Generator().manual_seed(0), 1),
        )
        for mix in (True, False)
    }
    inputs = dict(tiny_tokenizer("bert")(["a good film", "bad"], padding=True, return_tensors="pt"))
    states = probes[True].features(inputs).unflatten(-1, (4, -1))
    torch.testing.assert_close(states[:, 2], probes[False].features(inputs))


@pytest.mark.parametrize(
    ("options", "why"),
    [({"hidden_layers": 2}, "belongs to"), ({"mix": True, "layer": 1}, "reads all"),
     ({"hidden": 0}, "1 or more"), ({"dropout": 1.0}, "below 1")],
)  # fmt: skip
def test_probes_that_are_rejected(options, why):
    with pytest.raises(ConfigError, match=why):
        Probe(**options)


# ---- a baseline without pretraining ----


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5", "xlnet", "modernbert", "bart"])
def test_random_weights_follow_from_the_seed_and_know_nothing(family, checkpoints):
    def body(seed: int, **options: bool) -> dict[str, torch.Tensor]:
        set_seed(seed)
        model = Model("m", str(checkpoints[family]), **options)
        config = load_config(model, "sequence", 2)
        loaded = load_model(model, config, "sequence").model
        return {n: p.detach() for n, p in loaded.named_parameters() if n not in head_names(loaded)}

    kept = body(0)
    one, again, other = (body(seed, random_weights=True) for seed in (0, 0, 1))
    assert all(torch.equal(one[name], again[name]) for name in one)
    matrices = [name for name, tensor in one.items() if tensor.dim() > 1 and tensor.std() > 0]
    assert len(matrices) > 10
    assert not any(torch.equal(one[name], other[name]) for name in matrices)
    assert not any(torch.equal(one[name], kept[name]) for name in matrices)


@pytest.mark.parametrize("options", [{}, {"random_weights": True}])
def test_t5s_token_classifier_is_drawn_as_small_as_its_other_heads(options, checkpoints):
    """transformers draws it with deviation 1, the other heads with 1 / sqrt(d)."""
    model = Model("m", str(checkpoints["t5"]), **options)
    config = load_config(model, "token", 200)
    set_seed(0)
    loaded = load_model(model, config, "token").model
    (weight,) = [p for n, p in loaded.named_parameters() if n == "classifier.weight"]
    assert weight.shape == (200, config.d_model)
    assert weight.std().item() == pytest.approx(config.d_model**-0.5, rel=0.05)


def test_random_weights_and_a_parent_exclude_each_other():
    with pytest.raises(ConfigError, match=r"model\.random_weights=True: .*model\.from_run"):
        Model("m", "x", from_run="y", random_weights=True)


def test_an_adapter_of_random_weights_has_no_base_to_be_loaded_onto(checkpoints, tmp_path):
    words = [*tiny(checkpoints["bert"]), "task=sst2", f"data.root={data_root(tmp_path)}"]
    run = tmp_path / "run"
    done = call("train", *words, "method=lora", "model.random_weights=true", f"output_dir={run}")
    assert done.status == 0, done.err
    made = call("export", run, "--format", "peft", "--out", tmp_path / "adapter")
    assert made.status == 2 and "loaded onto the pretrained weights" in made.err
    assert not (tmp_path / "adapter").exists()
    merged = call("export", run, "--format", "merged", "--out", tmp_path / "merged")
    assert merged.status == 0, merged.err
