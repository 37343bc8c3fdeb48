"""Who sees which arm of an experiment: by a hash of the user, so that everybody stays where they are."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

from lanner.errors import ConfigError

_TOLERANCE = 1e-9
_MOST_LETTERS = 128


@dataclass(frozen=True)
class Experiment:
    """Arms and the share of users that each has, by name; an arm of a served experiment is an alias of a version.

    Shares may change while it runs: a user moves only from an arm to one whose share grew relative to it, so with one
    arm growing at the cost of all others exactly those move who must (weighted rendezvous hashing: Schindelhauer and
    Schomaker, Weighted Distributed Hash Tables, SPAA 2005). Another name or salt draws anew, independently.
    """

    name: str
    arms: Mapping[str, float]
    salt: str = ""

    def __post_init__(self) -> None:
        for what, text in (("name", self.name), *(("arm", arm) for arm in self.arms)):
            if not 0 < len(text) <= _MOST_LETTERS or not text.isprintable():
                raise ConfigError(f"experiment {what}: {text!r}, it must have 1 to {_MOST_LETTERS} printable letters")
        if "\0" in self.salt:
            raise ConfigError(f"experiment '{self.name}': the salt holds NUL; leave it out")
        check_shares(self.name, self.arms)

    def arm_of(self, user_id: str) -> str:
        """The user's arm; the same on every server."""
        person = "\0".join((self.salt, self.name, user_id, ""))
        return min(self.arms, key=lambda arm: (_waiting_time(person + arm) / self.arms[arm], arm))


def check_shares(name: str, shares: Mapping[str, float]) -> None:
    """Shares of an experiment's arms by name.

    Raises:
        ConfigError: fewer than two arms, a share that is not above 0, or a sum other than 1.
    """
    if len(shares) < 2:
        raise ConfigError(f"experiment '{name}' has {len(shares)} arm(s), it must have at least 2")
    for arm, share in shares.items():
        if not 0 < share < 1:
            raise ConfigError(f"experiment '{name}': the share of '{arm}' is {share}, it must lie between 0 and 1")
    if abs(math.fsum(shares.values()) - 1) > _TOLERANCE:
        raise ConfigError(f"experiment '{name}': shares add up to {math.fsum(shares.values()):g}, they must to 1")


def _waiting_time(text: str) -> float:
    """Exponentially distributed over texts: of two arms, each waiting so long over its share, the first comes first."""
    number = int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
    return -math.log((number + 1) / 2**64)
