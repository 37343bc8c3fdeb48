"""Makes ``tests/`` importable (``from stand_ins import …``) and provides a stand-in for the language model."""

from collections.abc import Iterator

import pytest
from hypothesis import settings
from stand_ins import encode_words

# How long an example takes says how busy the machine is.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the slowest tests come first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="module")
def hashed_words() -> Iterator[None]:
    """Trained recommenders read texts by ``encode_words``: no language model is installed, loaded or waited for."""
    from lanner.models.neural import NeuralRecommender

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NeuralRecommender, "_encode", lambda self, texts: encode_words(texts))
        yield
