"""A random dataset, and the same as a dense matrix for slow reference implementations."""

import numpy as np

from lanner.data.catalogue import Catalogue
from lanner.data.ids import IdMap
from lanner.data.interactions import Dataset, Interactions


def random_events(num_users: int = 30, num_items: int = 17, share: float = 0.3) -> tuple[Dataset, np.ndarray]:
    """Random events and the same as a 0/1 matrix in float64; the last item was met by nobody."""
    met = np.random.default_rng(3).random((num_users, num_items)) < share
    met[:, -1] = False
    user, item = np.nonzero(met)
    users, items = (IdMap([str(row) for row in range(count)]) for count in met.shape)
    events = Interactions(user.astype(np.int32), item.astype(np.int32))
    catalogues = Catalogue.blank(items.external), Catalogue.blank(users.external)
    return Dataset(events, users, items, *catalogues), met.astype(np.float64)
