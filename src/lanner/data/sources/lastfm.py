"""Last.fm of HetRec 2011: listening counts, artists, tags given by users, and friends.

Source: Cantador, Brusilovsky and Kuflik, HetRec 2011, https://grouplens.org/datasets/hetrec-2011.
"""

from pathlib import Path

from lanner.data.sources.files import Layout
from lanner.data.sources.mapping import (
    EntityColumns,
    Gather,
    InteractionColumns,
    SourceMapping,
    TieColumns,
    read_mapping,
)
from lanner.data.tables import Tables

_FILES = ("user_artists.dat", "artists.dat", "tags.dat", "user_taggedartists.dat", "user_friends.dat")
_MAPPING = SourceMapping(
    "lastfm-hetrec",
    InteractionColumns("userID", "artistID", "user_artists.dat", weight="weight"),
    EntityColumns(
        "artists.dat",
        "id",
        "name",
        ("{name}.", "Tags: {tags}."),
        gather=(Gather("tags", "user_taggedartists.dat", "artistID", "tagID", "tags.dat:tagID:tagValue"),),
    ),
    ties=TieColumns("user_friends.dat", "userID", "friendID"),
    # The tags were typed by people all over the world and are not all UTF-8; latin-1 reads every byte.
    layout=Layout("\t", "latin-1", quote=False),
)


def detect(folder: Path) -> bool:
    """Whether the folder holds all five files of the dataset."""
    return all((folder / name).is_file() for name in _FILES)


def read(folder: Path) -> Tables:
    """Listening counts as weighted interactions, artists with their most given tags, friends as ties."""
    return read_mapping(_MAPPING, folder)
