"""A tiny language model learns which texts belong together; the execution mode does not change what it learns."""

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from tiny_language_models import save_model

from lanner.data.catalogue import Catalogue
from lanner.data.ids import IdMap
from lanner.data.interactions import Dataset, Interactions
from lanner.data.splitting import random_ratio
from lanner.errors import ConfigError, DataError, Interrupted, MissingExtraError, StorageError
from lanner.models.batches_of_texts import pad_right
from lanner.models.language import LanguageConfig, LanguageEncoder
from lanner.models.neural import NeuralRecommender
from lanner.models.neural_config import NeuralConfig
from lanner.models.text_tower import TextTower
from lanner.training import adapters
from lanner.training.adaptation import EncoderAdaptation
from lanner.training.adapters import trainable_tower, trained_weights
from lanner.training.batches import TextBatches
from lanner.training.companions import Companions
from lanner.training.config import AdaptationConfig, TrainingConfig
from lanner.training.loop import Loop, Trainer

peft = pytest.importorskip("peft", reason="the extra 'adapt' is not installed")

NETWORK = NeuralConfig(views=("language",), fusion="sum", language_dimensions=8, word_dimensions=0)
TRAINING = TrainingConfig(epochs=2, patience=2, batch_users=40, learning_rate=0.01, device="cpu")
LORA = AdaptationConfig("lora", rank=4, tokens_per_step=400, epochs=2, dtype="float32", learning_rate=0.003)
THOROUGH = replace(LORA, epochs=8, patience=8)
TEXTS = ["w1 w2 w3", "w50", "w40 w7", "w3 w2 w1 w9 w44"]


def bookshop() -> Dataset:
    """Users like items of one kind; one word in twelve tells it, which only training tells from the others."""
    random = np.random.default_rng(0)
    kinds = random.integers(3, size=60)
    texts = []
    for row, kind in enumerate(kinds):
        words = [f"w{random.integers(20)}" for _ in range(11)] + [f"w{40 + 6 * kind + random.integers(6)}"]
        words = random.permutation(words).tolist()
        texts.append(" ".join(words[:4]) + ("\n" if row % 7 else " ") + " ".join(words[4:]))
    texts[5] = ""
    events = [(user, item) for user in range(90) for item in random.choice(np.flatnonzero(kinds == user % 3), 8, False)]
    user, item = np.array(events, np.int32).T
    users, items = (IdMap([f"{kind}{row}" for row in range(count)]) for kind, count in (("u", 90), ("i", 60)))
    catalogues = Catalogue(tuple(texts), items.external), Catalogue.blank(users.external)
    return Dataset(Interactions(user, item), users, items, *catalogues)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    kinds = ("bert", "mpnet", "llama", "gpt2", "t5")
    return {kind: save_model(kind, tmp_path_factory.mktemp(kind)) for kind in kinds}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LANNER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def split():
    return random_ratio(bookshop(), 0.2, 0.2)


def language_of(folder: Path, **changes) -> LanguageEncoder:
    return LanguageEncoder(LanguageConfig(**{"model": str(folder), "dtype": "float32", "max_tokens": 30} | changes))


def adaptation_of(config: AdaptationConfig, checkpoint: Path | None = None) -> EncoderAdaptation:
    return EncoderAdaptation(config, NETWORK, TRAINING, checkpoint, progress=False)


def weights_of(folder, split, config=LORA, checkpoint=None, **changes) -> dict[str, np.ndarray]:
    adapt, language = adaptation_of(config, checkpoint), language_of(folder, **changes)
    adapted = adapt(language, split.train, split.validation)
    return dict((language if adapted is None else adapted.encoder).weights)


@pytest.fixture(scope="module")
def learned(folders, split, tmp_path_factory):
    """A finished adaptation, the language model that it gave, and the folder of its adapter."""
    folder = tmp_path_factory.mktemp("adapter") / "bookshop"
    adapt = adaptation_of(replace(THOROUGH, output=str(folder)))
    return adapt, adapt(language_of(folders["bert"]), split.train, split.validation).encoder, folder


# What is learned.


def test_the_language_model_learns_which_texts_go_together(learned, folders):
    adapt, language, _ = learned
    qualities = [quality for _, quality in adapt.curve]
    assert max(qualities) > 1.2 * qualities[0]
    moments = [moment for moment, _ in adapt.curve]
    assert moments == sorted(moments)
    assert 0 < adapt.num_trained < 0.5 * sum(weight.numel() for weight in language.model.parameters())
    assert np.abs(language.encode(TEXTS) - language_of(folders["bert"]).encode(TEXTS)).max() > 1e-3


@pytest.mark.parametrize(
    "change",
    [
        {"method": "dora"},
        {"method": "full", "learning_rate": 3e-4},
        {"trained_layers": 1},
        {"dtype": "bfloat16"},
        {"objective": "companions"},
        {"objective": "companions", "trained_layers": 1},
    ],
    ids=str,
)
def test_every_way_of_training_helps(folders, split, change):
    adapt = adaptation_of(replace(THOROUGH, **change))
    adapt(language_of(folders["bert"]), split.train, split.validation)
    assert max(quality for _, quality in adapt.curve) > 1.1 * adapt.curve[0][1]


def test_a_large_catalogue_is_sampled(folders, split):
    """Each item is compared with companions of its own and with random items, as if with all."""
    config = replace(THOROUGH, objective="companions")
    few, all_items = (
        EncoderAdaptation(config, NETWORK, replace(TRAINING, num_candidates=number), progress=False)
        for number in (30, 60)
    )
    for adapt in (few, all_items):
        adapt(language_of(folders["bert"]), split.train, split.validation)
    gains = [max(quality for _, quality in adapt.curve) / adapt.curve[0][1] for adapt in (few, all_items)]
    assert gains[0] > 1.1
    assert gains[0] != gains[1], "sampled"


def test_companions_are_what_the_same_users_chose():
    readable = np.array([True, True, True, False, True])
    events = {0: [0, 1, 3], 1: [0, 1, 2], 2: [4], 3: [3, 4]}
    pairs = [(user, item) for user, items in events.items() for item in items]
    user, item = np.array(pairs, np.int32).T
    users, items = (IdMap([f"{kind}{row}" for row in range(count)]) for kind, count in (("u", 4), ("i", 5)))
    catalogues = Catalogue.blank(items.external), Catalogue.blank(users.external)
    companions = Companions(Dataset(Interactions(user, item), users, items, *catalogues), readable)
    assert companions.items.tolist() == [0, 1, 2], "item 3 has no text, and users of item 4 chose no other with a text"
    assert companions.degrees.tolist() == [2, 2, 1, 0, 0]
    # Users 0 and 1 chose both 0 and 1, and user 1 divides her weight between two companions.
    expected = [[0, 0.75, 0.25, 0, 0], [0.75, 0, 0.25, 0, 0], [0.5, 0.5, 0, 0, 0]]
    assert_allclose(companions.of(companions.items).toarray(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "pooling", "target"),
    [("llama", "last", "q_proj"), ("gpt2", "last", "c_attn"), ("mpnet", "mean", "q"), ("t5", "mean", "wi")],
)
def test_encoders_and_decoders_of_any_family_take_adapters(folders, kind, pooling, target):
    language = language_of(folders[kind], pooling=pooling)
    tower = trainable_tower(language, LORA)
    ids_BL, mask_BL = pad_right(language.token_ids(TEXTS), language.pad_id)
    optimizer = torch.optim.SGD([one for one in tower.parameters() if one.requires_grad], lr=0.5)
    for _ in range(2):  # in the first step only one of an adapter's two matrices has a gradient
        tower(ids_BL, mask_BL)[:, 0].sum().backward()
        optimizer.step()
    weights = trained_weights(tower, language)
    assert target in {name.rpartition(".")[0].rpartition(".")[2] for name in weights}
    with torch.no_grad():
        beside = tower(ids_BL, mask_BL).numpy()
    assert_allclose(LanguageEncoder(language.config, weights).encode(TEXTS), beside, atol=2e-6)


def test_peft_leaves_no_warning_of_transformers(folders, recwarn):
    language = language_of(folders["llama"], pooling="last")
    trained_weights(trainable_tower(language, LORA), language)
    assert not [one for one in recwarn if "gradient_checkpointing" in str(one.message)]


def test_only_target_modules_of_trained_layers_change(folders, split):
    config = replace(LORA, target_modules=("query", "value"), trained_layers=2)
    changed = weights_of(folders["bert"], split, config)
    expected = [
        f"encoder.layer.{layer}.attention.self.{name}.weight" for layer in (2, 3) for name in ("query", "value")
    ]
    assert sorted(changed) == expected


def test_full_weights_of_upper_layers_alone(folders, split):
    changed = weights_of(folders["bert"], split, replace(LORA, method="full", trained_layers=1))
    assert changed
    assert all(name.startswith("encoder.layer.3.") for name in changed)


def test_where_nothing_helps_the_model_stays(folders, split, capsys, tmp_path):
    """And an adapter that changes nothing is written: who asked for one finds it."""
    language = language_of(folders["bert"])
    useless = replace(LORA, learning_rate=1e-12, output=str(tmp_path / "adapter"))
    adapt = EncoderAdaptation(useless, NETWORK, replace(TRAINING, learning_rate=1e-12))
    assert adapt(language, split.train, split.validation) is None
    again = LanguageEncoder(replace(language.config, adapter=str(tmp_path / "adapter")))
    np.testing.assert_array_equal(again.encode(["a text"]), language.encode(["a text"]))
    assert "no epoch was better than the frozen model" in capsys.readouterr().err


def test_progress_tells_texts_and_tokens_a_second(folders, split, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    EncoderAdaptation(LORA, NETWORK, TRAINING)(language_of(folders["bert"]), split.train, split.validation)
    shown = capsys.readouterr().err
    for words in ("train language model", "best ndcg@10", "texts/s", "tokens/s"):
        assert words in shown


# How it is run changes nothing.


@pytest.mark.parametrize(
    ("kind", "pooling"), [("bert", "mean"), ("mpnet", "mean"), ("llama", "last"), ("gpt2", "last")]
)
def test_cached_activations_train_the_same_weights(folders, split, own_cache, kind, pooling):
    config = replace(LORA, trained_layers=2)
    plain = weights_of(folders[kind], split, replace(config, cache=False), pooling=pooling)
    assert not (own_cache / "activations").exists()
    cached = weights_of(folders[kind], split, config, pooling=pooling)
    assert len(list((own_cache / "activations").iterdir())) == 1
    again = weights_of(folders[kind], split, config, pooling=pooling)
    assert plain.keys() == cached.keys()
    for name, weight in plain.items():
        assert_allclose(cached[name], weight, atol=2e-5)
        assert_array_equal(again[name], cached[name])


def test_a_family_that_needs_its_lower_layers_says_so(folders, split):
    with pytest.raises(
        ConfigError, match=r"T5Stack cannot be run from cached activations; set adaptation\.cache=false"
    ):
        weights_of(folders["t5"], split, replace(LORA, trained_layers=2))
    assert weights_of(folders["t5"], split, replace(THOROUGH, trained_layers=2, cache=False))


def test_the_cache_keeps_within_its_bounds(folders, split, own_cache):
    config = replace(LORA, trained_layers=2)
    weights_of(folders["bert"], split, config)
    (first,) = (own_cache / "activations").iterdir()
    gib = first.stat().st_size / 2**30
    weights_of(folders["bert"], split, replace(config, trained_layers=1, cache_gib=1.5 * gib))
    (second,) = (own_cache / "activations").iterdir()
    assert first != second, "the older file went"
    weights_of(folders["bert"], split, replace(config, trained_layers=3, cache_gib=0.5 * gib))
    assert [second] == list((own_cache / "activations").iterdir()), "what does not fit is computed again"


def test_gradient_checkpointing_changes_no_bit(folders, split):
    plain, again = (weights_of(folders["bert"], split, replace(LORA, checkpointing=on)) for on in (False, True))
    assert all(np.array_equal(again[name], weight) for name, weight in plain.items())


def test_steps_read_about_as_many_tokens_each():
    random = np.random.default_rng(0)
    items, tokens = np.arange(100, 600), random.integers(1, 60, 500)
    batches = TextBatches(items, tokens, 1000, seed=3)
    for epoch in range(2):
        steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
        read = [batches.at(step) for step in steps]
        assert sorted(np.concatenate(read)) == items.tolist()
        totals = [tokens[rows - 100].sum() for rows in read]
        assert max(totals) - min(totals) <= 2 * tokens.max()
    assert not np.array_equal(batches.at(0), batches.at(batches.steps_per_epoch))


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("objective", "number"), [*(("histories", number) for number in (0, 3, 9)), ("companions", 0), ("companions", 3)]
)
def test_ctrl_c_resumes_to_the_same_bits(folders, split, tmp_path, monkeypatch, objective, number):
    config = replace(LORA, epochs=3, objective=objective)
    uninterrupted, original, taken = weights_of(folders["bert"], split, config), Loop._step, []

    def step(self, task, *rest):
        if len(taken) == number:
            press_ctrl_c()
        taken.append(task.name)
        return original(self, task, *rest)

    monkeypatch.setattr(Loop, "_step", step)
    with pytest.raises(Interrupted, match="the same command resumes from"):
        weights_of(folders["bert"], split, config, tmp_path)
    resumed = weights_of(folders["bert"], split, config, tmp_path)
    assert all(np.array_equal(resumed[name], weight) for name, weight in uninterrupted.items())
    finished = len(taken)
    weights_of(folders["bert"], split, config, tmp_path)
    assert len(taken) == finished, "a finished adaptation is not run again"
    with pytest.raises(DataError, match="other data or settings"):
        weights_of(folders["bert"], split, replace(config, rank=2), tmp_path)


# Merge, save, load, swap.


def vectors_beside(model, language: LanguageEncoder) -> np.ndarray:
    """Of ``TEXTS`` by a model with its adapters beside the weights, not merged."""
    tower = TextTower(model, pooling="mean", normalise=True)
    with torch.no_grad():
        return tower(*pad_right(language.token_ids(TEXTS), language.pad_id)).numpy()


def test_merged_saved_and_loaded_adapters_give_the_same_vectors(learned, folders):
    _, merged, folder = learned
    base, loaded = language_of(folders["bert"]), language_of(folders["bert"], adapter=str(folder))
    beside = vectors_beside(peft.PeftModel.from_pretrained(base.read_model(torch.float32), folder), base)
    assert sorted(file.name for file in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert_allclose(merged.encode(TEXTS), beside, atol=2e-6)
    assert_array_equal(loaded.encode(TEXTS), merged.encode(TEXTS))
    assert_array_equal(loaded.in_float32().encode(TEXTS), merged.encode(TEXTS))
    assert len({base.fingerprint, loaded.fingerprint, merged.fingerprint}) == 3, "the cache keeps their vectors apart"


def test_adapters_are_swapped_by_naming_another(learned, folders, split, tmp_path):
    _, _, first = learned
    second = tmp_path / "second"
    weights_of(folders["bert"], split, replace(THOROUGH, seed=1, output=str(second)))
    base = language_of(folders["bert"])
    model = peft.PeftModel.from_pretrained(base.read_model(torch.float32), first, adapter_name="first")
    model.load_adapter(second, adapter_name="second")
    for name, folder in {"second": second, "first": first}.items():
        model.set_adapter(name)
        swapped = language_of(folders["bert"], adapter=str(folder)).encode(TEXTS)
        assert_allclose(swapped, vectors_beside(model, base), atol=2e-6)
    with model.disable_adapter():
        assert_allclose(base.encode(TEXTS), vectors_beside(model, base), atol=2e-6)


def test_an_adapter_can_be_trained_further(learned, folders, split):
    _, merged, folder = learned
    further = weights_of(folders["bert"], split, THOROUGH, adapter=str(folder))
    assert further.keys() == merged.weights.keys()
    assert any((further[name] != weight).any() for name, weight in merged.weights.items())


def test_full_weights_are_written_as_a_model(folders, split, tmp_path):
    config = replace(THOROUGH, method="full", learning_rate=3e-4, output=str(tmp_path / "model"))
    language = adaptation_of(config)(language_of(folders["bert"]), split.train, split.validation).encoder
    assert_array_equal(language_of(tmp_path / "model").encode(TEXTS), language.encode(TEXTS))
    adaptation_of(config)(language_of(folders["bert"]), split.train, split.validation)  # and replaced by another


def test_a_folder_of_ones_own_is_not_replaced(folders, split, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match="holds something other than an adapter"):
        weights_of(folders["bert"], split, replace(THOROUGH, output=str(tmp_path)))
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_recommender_carries_the_adapted_weights(folders, split, tmp_path):
    folder = tmp_path / "adapter"
    config = replace(NETWORK, encoder=language_of(folders["bert"]).config)
    adapt = EncoderAdaptation(replace(THOROUGH, output=str(folder)), config, TRAINING, progress=False)
    fitted = NeuralRecommender(config, Trainer(TRAINING, progress=False), adapt).fit(split.train, split.validation)
    vectors = fitted.encoder.encode(TEXTS)
    assert np.abs(vectors - language_of(folders["bert"]).encode(TEXTS)).max() > 1e-3
    assert_array_equal(fitted.unaware().encoder.encode(TEXTS), vectors)
    again = NeuralRecommender().load_state(*fitted.state(), split.train)
    assert_array_equal(again.encoder.encode(TEXTS), vectors)
    assert_array_equal(again.features(TEXTS), fitted.features(TEXTS))

    borrowed = replace(config, encoder=replace(config.encoder, adapter=str(folder)))
    fitted = NeuralRecommender(borrowed, Trainer(TRAINING, progress=False)).fit(split.train, split.validation)
    state = fitted.state()
    for file in folder.iterdir():
        file.unlink()
    again = NeuralRecommender().load_state(*state, split.train)
    assert_array_equal(again.encoder.encode(TEXTS), vectors)


def test_the_view_goes_on_from_what_it_learned_with_the_language_model(folders, split):
    config = replace(NETWORK, views=("language",), encoder=language_of(folders["bert"]).config)
    adapt = EncoderAdaptation(THOROUGH, config, TRAINING, progress=False)
    adapted = adapt(language_of(folders["bert"]), split.train, split.validation)
    reached = max(quality for _, quality in adapt.curve)

    def fitted(learning_rate: float) -> tuple[NeuralRecommender, Trainer]:
        trainer = Trainer(replace(TRAINING, learning_rate=learning_rate), progress=False)
        again = NeuralRecommender(config, trainer, lambda *_: adapted)
        return again.fit(split.train, split.validation), trainer

    ruined, trainer = fitted(1e3)
    assert trainer.epochs["language"] == 0, "the state at the start counts"
    assert trainer.qualities["language"] == pytest.approx(reached, abs=1e-3)
    whole = ruined.refit(split.refit)
    assert_array_equal(whole.network.views["language"].to_target.weight.detach(), adapted.view["to_target.weight"])
    _, trainer = fitted(TRAINING.learning_rate)
    assert trainer.qualities["language"] >= reached - 1e-3


def test_after_an_adaptation_without_a_view_it_starts_anew_on_new_features(folders, split):
    config = replace(NETWORK, encoder=language_of(folders["bert"]).config)
    adapt = EncoderAdaptation(replace(THOROUGH, objective="companions"), config, TRAINING, progress=False)
    fitted = NeuralRecommender(config, Trainer(TRAINING, progress=False), adapt).fit(split.train, split.validation)
    plain = NeuralRecommender(config, Trainer(TRAINING, progress=False)).fit(split.train, split.validation)
    assert fitted.encoder.weights
    assert not plain.encoder.weights
    centred = [np.abs(one.text_features.mean_SE).max() for one in (fitted, plain)]
    assert centred[0] != centred[1], "the features are fitted to the adapted vectors"


def test_a_run_resumes_only_one_whose_view_started_alike(folders, split, tmp_path, monkeypatch):
    config = replace(NETWORK, views=("language",), encoder=language_of(folders["bert"]).config)
    adapted, original = adaptation_of(LORA)(language_of(folders["bert"]), split.train, split.validation), Loop._step

    def fit(adaptation) -> None:
        trainer = Trainer(TRAINING, tmp_path, progress=False)
        NeuralRecommender(config, trainer, adaptation).fit(split.train, split.validation)

    def step(self, *given):
        press_ctrl_c()
        return original(self, *given)

    monkeypatch.setattr(Loop, "_step", step)
    with pytest.raises(Interrupted):
        fit(lambda *_: adapted)
    monkeypatch.setattr(Loop, "_step", original)
    with pytest.raises(DataError, match="other data or settings"):
        fit(None)
    fit(lambda *_: adapted)


@pytest.mark.parametrize("bits", [4, 8])
def test_adapters_are_trained_beside_quantised_weights(folders, split, bits):
    pytest.importorskip("bitsandbytes", reason="the extra 'qlora' is not installed")
    assert weights_of(folders["bert"], split, replace(THOROUGH, base_bits=bits))


# Bad input.


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rank": 33}, "adaptation.rank=33 exceeds the 32 dimensions of a target module"),
        (
            {"target_modules": ("query", "q_proj")},
            "have no 'q_proj'; they have dense, key, query, value",
        ),
        ({"trained_layers": 5}, "adaptation.trained_layers=5 exceeds the 4 layers of the model"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_the_model_cannot_have_is_named(folders, split, change, words):
    with pytest.raises(ConfigError, match=words):
        weights_of(folders["bert"], split, replace(LORA, **change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "lora2"}, "method must be one of none, lora, dora, full, received 'lora2'"),
        ({"objective": "pairs"}, "objective must be one of histories, companions, received 'pairs'"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"rank": 0}, "rank must be at least 1, received 0"),
        ({"alpha": 0.0}, "alpha must be above 0"),
        ({"dtype": "half"}, "dtype must be one of"),
        ({"cache_gib": -1.0}, "cache_gib must be at least 0"),
        ({"base_bits": 2}, "base_bits must be 4, 8 or 32, received 2"),
        ({"method": "full", "base_bits": 8}, "base_bits=8 needs adapters"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_settings_out_of_range_are_refused_by_name(change, words):
    with pytest.raises(ConfigError, match=words):
        replace(LORA, **change)


@pytest.mark.parametrize(
    ("package", "change", "extra"), [("peft", {}, "adapt"), ("bitsandbytes", {"base_bits": 8}, "qlora")]
)
def test_a_missing_package_names_the_line_that_installs_it(folders, split, monkeypatch, package, change, extra):
    find = adapters.find_spec
    monkeypatch.setattr(adapters, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(MissingExtraError, match=rf"needs the package '{package}'.*lanner\[{extra}\]"):
        weights_of(folders["bert"], split, replace(LORA, **change))


def test_an_adapter_that_is_none_or_of_another_model_is_named(learned, folders, tmp_path):
    _, _, folder = learned
    with pytest.raises(ConfigError, match=r"there is no .*nowhere/adapter_config\.json"):
        language_of(folders["bert"], adapter="nowhere").check()
    with pytest.raises(ConfigError, match="is not an adapter of this model"):
        language_of(folders["llama"], adapter=str(folder)).encode(TEXTS)
    with pytest.raises(ConfigError, match="the adapted weights belong to another model"):
        LanguageEncoder(language_of(folders["bert"]).config, {"stranger": np.zeros(3, np.float32)}).encode(TEXTS)


@pytest.mark.parametrize(
    ("objective", "words"),
    [("histories", "no item with interactions has a text"), ("companions", "no user chose two items with texts")],
)
def test_without_texts_there_is_nothing_to_adapt_to(folders, objective, words):
    world = bookshop()
    silent = replace(world, item_catalogue=Catalogue.blank(world.items.external))
    split = random_ratio(silent, 0.2, 0.2)
    with pytest.raises(DataError, match=words):
        weights_of(folders["bert"], split, replace(LORA, objective=objective))
