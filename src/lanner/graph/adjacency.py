"""One edge type as a sparse matrix with edge weights."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from lanner.data.grouping import group
from lanner.data.ragged import Ragged

if TYPE_CHECKING:
    import scipy.sparse as sp

Normalisation = Literal["symmetric", "mean"]


@dataclass(frozen=True, eq=False)
class Adjacency:
    """A CSR matrix ``[rows, columns]``: row ``r`` receives from ``indices[indptr[r] : indptr[r + 1]]``.

    indptr: int64 ``[rows + 1]``. indices: int32 ``[E]`` columns. values: float32 ``[E]``; None: every edge weighs 1.
    The arrays are immutable, so derived matrices are cached.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    values: NDArray[np.float32] | None
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        """Validate the arrays: the kernels access memory unchecked."""
        rows, columns = self.shape
        edges = len(self.indices)
        if len(self.indptr) != rows + 1 or self.indptr[0] != 0 or self.indptr[-1] != edges:
            raise ValueError(f"indptr with {len(self.indptr)} entries does not match {rows} rows and {edges} edges")
        if np.any(self.indptr[1:] < self.indptr[:-1]):
            raise ValueError("indptr decreases; it must be the cumulative sum of the row lengths")
        if edges and not 0 <= int(self.indices.min()) <= int(self.indices.max()) < columns:
            raise ValueError(f"indices {self.indices.min()} … {self.indices.max()} are outside {columns} columns")
        if self.values is not None and len(self.values) != edges:
            raise ValueError(f"{len(self.values)} values do not match {edges} edges")

    @property
    def num_edges(self) -> int:
        return len(self.indices)

    @property
    def row_degrees(self) -> NDArray[np.int64]:
        """In-degree of each row, int64 ``[rows]``."""
        return np.diff(self.indptr)

    @property
    def column_degrees(self) -> NDArray[np.int64]:
        """Out-degree of each column, int64 ``[columns]``."""
        return np.bincount(self.indices, minlength=self.shape[1]).astype(np.int64, copy=False)

    @property
    def row_of_edge(self) -> NDArray[np.int32]:
        """Row of each edge, int32 ``[E]``."""
        return np.repeat(np.arange(self.shape[0], dtype=np.int32), self.row_degrees)

    @classmethod
    def from_ragged(cls, ragged: Ragged, num_columns: int) -> Self:
        """List ``r`` of ``ragged`` becomes the neighbours of row ``r``; repeats become parallel edges."""
        return cls(ragged.indptr, ragged.values, None, (len(ragged), num_columns))

    @classmethod
    def from_pattern(cls, matrix: "sp.csr_matrix") -> Self:
        """The nonzero pattern of a sparse matrix, without its weights."""
        return cls(matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), None, matrix.shape)

    @cached_property
    def transposed(self) -> "Adjacency":
        """The transpose ``[columns, rows]``, cached; its own transpose is this object."""
        indptr, rows = group(self.indices, self.row_of_edge, self.shape[1])
        # Weights are carried along as integers: their bits are as wide as a row index.
        bits = None if self.values is None else group(self.indices, self.values.view(np.int32), self.shape[1])[1]
        values = None if bits is None else bits.view(np.float32)
        turned = Adjacency(indptr, rows, values, (self.shape[1], self.shape[0]))
        turned.__dict__["transposed"] = self
        return turned

    def normalised(self, kind: Normalisation) -> "Adjacency":
        """The same edges with weights from degrees (parallel edges count individually).

        ``symmetric``: 1 / √(d_row · d_column), as in LightGCN (He et al., 2020). ``mean``: 1 / |N(row)|.
        Existing weights are replaced.
        """
        # Weights are stored: reading 4 bytes per edge costs less than another pass over the features.
        into = _inverse(self.row_degrees)
        if kind == "mean":
            return replace(self, values=np.repeat(into, self.row_degrees).astype(np.float32))
        out_of = np.sqrt(_inverse(self.column_degrees)).astype(np.float32)
        return replace(
            self, values=np.repeat(np.sqrt(into), self.row_degrees).astype(np.float32) * out_of[self.indices]
        )

    def row_chunks(self, count: int) -> NDArray[np.int64]:
        """Split the rows into ``count`` chunks of similar work, int64 ``[count + 1]`` first rows."""
        # Writing a row costs about as much as reading one neighbour.
        work = self.indptr + np.arange(self.shape[0] + 1)
        targets = np.linspace(0, work[-1], count + 1)
        return np.searchsorted(work, targets).astype(np.int64)

    def dense(self) -> NDArray[np.float64]:
        """The dense matrix, float64 ``[rows, columns]``: the reference, for small graphs only."""
        matrix = np.zeros(self.shape)
        np.add.at(matrix, (self.row_of_edge, self.indices), 1.0 if self.values is None else self.values)
        return matrix


def _inverse(degrees: NDArray[np.int64]) -> NDArray[np.float64]:
    """1 / degree; the value for isolated nodes is arbitrary but finite."""
    return 1.0 / np.maximum(degrees, 1)


def distinct_edges(
    rows: NDArray[np.integer[Any]], columns: NDArray[np.integer[Any]], shape: tuple[int, int]
) -> Adjacency:
    """The adjacency with each distinct pair (row, column) once, columns sorted within a row."""
    import scipy.sparse as sp

    matrix = sp.csr_matrix((np.ones(len(rows), np.int8), (rows, columns)), shape=shape)
    matrix.sort_indices()
    return Adjacency.from_pattern(matrix)
