"""What every recipe must say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from producer.errors import BundleError
from worker.model.bundle import DESCRIPTION_FILE, SCHEMA, Bundle
from worker.model.calibration import LabelSmoothing
from worker.model.install import make_bundle
from worker.model.recipes import HubSource, Recipe, WheelSource, find_recipe, list_recipes, pinned

RECIPES = list_recipes()


def test_the_models_that_the_manual_names_have_recipes() -> None:
    """By the names that `avatarmod bundle install` takes."""
    assert {recipe.name for recipe in RECIPES} == {
        *("open-nsfw", "image-safety-s", "image-safety-xs", "marqo-nsfw-384", "falconsai"),
    }
    assert [r.name for r in RECIPES if r.recommended_as in ("first", "second")] == [
        *("image-safety-s", "open-nsfw"),
    ]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_recipe_pins_all_that_it_fetches(recipe: Recipe) -> None:
    """Either a file with its hash and sources, or a checkpoint at one commit; never a branch."""
    assert (recipe.file is None) != (recipe.checkpoint is None)
    assert recipe.licence
    if recipe.checkpoint is not None:
        assert re.fullmatch("[0-9a-f]{40}", recipe.checkpoint.revision)
        return
    assert recipe.file is not None
    assert re.fullmatch("[0-9a-f]{64}", recipe.file.sha256)
    assert recipe.sources
    assert len(recipe.licence_text) > 500
    for source in recipe.sources:
        if isinstance(source, WheelSource):
            assert re.fullmatch("[0-9a-f]{64}", source.sha256)
            assert source.wheel.endswith(".whl")
            assert source.version in source.wheel
        else:
            assert isinstance(source, HubSource)
            assert re.fullmatch("[0-9a-f]{40}", source.revision)


@pytest.mark.parametrize(
    "recipe", [recipe for recipe in RECIPES if recipe.file], ids=lambda recipe: recipe.name
)
def test_a_recipe_describes_a_valid_bundle(recipe: Recipe, tmp_path: Path) -> None:
    """With any file in the model's place, the description loads."""
    model = tmp_path / "some.onnx"
    model.write_bytes(b"graph")
    fields = {**recipe.bundle, "licence": recipe.licence}
    bundle = make_bundle(model, recipe.name, fields, tmp_path / "made")
    assert bundle.name == recipe.name
    assert not set(bundle.hold_columns) & set(bundle.nsfw_columns)


def test_the_shipped_bundle_says_what_its_recipe_says(tmp_path: Path) -> None:
    """The default bundle and its recipe are one description."""
    recipe = find_recipe("open-nsfw")
    shipped = Bundle.load("open-nsfw", tmp_path)
    assert recipe.file is not None
    assert shipped.description["model"]["sha256"] == recipe.file.sha256
    same = {key: shipped.description[key] for key in recipe.bundle}
    assert same == recipe.bundle
    assert shipped.description["schema"] == SCHEMA
    assert (shipped.folder / DESCRIPTION_FILE).exists()


def test_gore_can_hold_and_never_clears() -> None:
    """NSFL is no explicit label and no harmless one."""
    for name in ("image-safety-s", "image-safety-xs"):
        fields = find_recipe(name).bundle
        assert fields["nsfw_labels"] == ["NSFW"]
        assert fields["hold_labels"] == ["NSFL"]


@pytest.mark.parametrize(
    ("raw", "probability"),
    [(1 / 30, 0.0), (0.0, 0.0), (28 / 30, 1.0), (1.0, 1.0), (0.5, 0.5185185)],
)
def test_smoothing_over_three_classes_is_undone(raw: float, probability: float) -> None:
    """A certain answer of a model trained so is 1/30 or 28/30."""
    smoothing = LabelSmoothing(epsilon=0.1, classes=3)
    assert smoothing.probability(raw) == pytest.approx(probability, abs=1e-6)


def test_smoothing_of_summed_columns_has_a_higher_floor() -> None:
    """Two of five columns start at 2 * epsilon / 5."""
    smoothing = LabelSmoothing(epsilon=0.1, classes=5, columns=2)
    assert smoothing.probability(0.04) == 0.0
    assert smoothing.probability(0.94) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="columns"):
        LabelSmoothing(epsilon=0.1, classes=2, columns=2)


def test_an_unknown_name_lists_the_known_ones() -> None:
    """A typing error is answered with what would be right."""
    with pytest.raises(BundleError, match="image-safety-s, image-safety-xs"):
        find_recipe("image-safety")


def test_a_checkpoint_is_found_by_its_repository() -> None:
    """The export takes its pins from here and from nowhere else."""
    found = pinned("Marqo/nsfw-image-detection-384")
    assert found is not None
    assert (found[0].name, found[1].label_smoothing) == ("marqo-nsfw-384", 0.1)
    assert pinned("somebody/else") is None
