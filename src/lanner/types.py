"""Column names, row types and the legend of axes that all packages share.

Axis legend, used as suffixes in names (``item_ID`` is ``[items, dimensions]``) and in shape comments:

    U users    I items    B a batch of users    K the k of a top-k list    D embedding dimensions
    L history length    E edges    T texts    Z concatenated features of a user-item pair
"""

from typing import NewType

USER = "user"
ITEM = "item"
TIMESTAMP = "timestamp"
WEIGHT = "weight"
BEHAVIOUR = "behaviour"
FRIEND = "friend"
TEXT = "text"
REASON = "reason"

UserRow = NewType("UserRow", int)
"""Position of a user inside one dataset, 0 … num_users − 1. Never shown to a caller."""
ItemRow = NewType("ItemRow", int)
"""Position of an item inside one dataset, 0 … num_items − 1. Never shown to a caller."""
ExternalId = str
"""An id as its owner writes it. Integers become their decimal text, so that 7 and "7" are one id."""
