"""The small shop of ``tests/library``, for the tests of conversions to other libraries."""

from tests.library.conftest import data, knn, shop  # noqa: F401
