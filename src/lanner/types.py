"""Column names and the axis legend shared by all packages.

Axis legend, used as suffixes in names (``item_ID`` is ``[items, dimensions]``) and in shape comments:

    U users    I items    B a batch of users    K the k of a top-k list    D embedding dimensions
    L history length    E edges    T texts    Z concatenated features of a user-item pair
"""

USER = "user"
ITEM = "item"
TIMESTAMP = "timestamp"
WEIGHT = "weight"
BEHAVIOUR = "behaviour"
FRIEND = "friend"
RELATED = "related"
TEXT = "text"
REASON = "reason"

ExternalId = str
"""An external id. Integers become decimal strings, so that 7 and "7" are the same id."""
