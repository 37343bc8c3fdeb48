"""The small shop of ``tests/library``, for the tests of what goes to other libraries."""

from tests.library.conftest import data, knn, shop  # noqa: F401
