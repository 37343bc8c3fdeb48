"""MovieLens: ``ratings.dat`` and friends (100K's successors up to 10M), or ``ratings.csv`` and friends (latest, 20M …).

Source: Harper and Konstan, "The MovieLens Datasets: History and Context", TiiS 5(4), 2015.
"""

from dataclasses import replace
from pathlib import Path

from lanner.data.sources.files import Layout
from lanner.data.sources.mapping import EntityColumns, Gather, InteractionColumns, SourceMapping, read_mapping
from lanner.data.tables import Tables

AGES = {
    "1": "under 18",
    "18": "18 to 24",
    "25": "25 to 34",
    "35": "35 to 44",
    "45": "45 to 49",
    "50": "50 to 55",
    "56": "56 or older",
}
_JOBS = (
    "other or not specified,academic or educator,artist,clerical or administration,college or graduate student,"
    "customer service,doctor or health care,executive or manager,farmer,homemaker,school student,lawyer,programmer,"
    "retired,sales or marketing,scientist,self-employed,technician or engineer,tradesman or craftsman,unemployed,writer"
)
OCCUPATIONS = {str(code): words for code, words in enumerate(_JOBS.split(","))}
GENDERS = {"F": "female", "M": "male"}

_DAT_MOVIES = EntityColumns("movies.dat", "item", "title", ("{title}.", "Genres: {genres}."), {"genres": "|"})
_CSV_MOVIES = EntityColumns("movies.csv", "movieId", "title", ("{title}.", "Genres: {genres}."), {"genres": "|"})
_DAT = SourceMapping(
    "movielens",
    InteractionColumns("user", "item", "ratings.dat", timestamp="timestamp", weight="rating"),
    _DAT_MOVIES,
    EntityColumns(
        "users.dat",
        "user",
        text=("Gender: {gender}.", "Age: {age}.", "Occupation: {occupation}."),
        attributes={"gender": "", "age": "", "occupation": ""},
        words={"gender": GENDERS, "age": AGES, "occupation": OCCUPATIONS},
    ),
    layout=Layout(
        "::",
        "latin-1",
        quote=False,
        columns={
            "ratings.dat": ("user", "item", "rating", "timestamp"),
            "movies.dat": ("item", "title", "genres"),
            "users.dat": ("user", "gender", "age", "occupation", "zip code"),
            "tags.dat": ("user", "item", "tag", "timestamp"),
        },
    ),
)
_CSV = SourceMapping(
    "movielens",
    InteractionColumns("userId", "movieId", "ratings.csv", timestamp="timestamp", weight="rating"),
    _CSV_MOVIES,
)


def detect(folder: Path) -> bool:
    """Whether the folder holds MovieLens ratings and movies."""
    return any((folder / f"ratings{end}").is_file() and (folder / f"movies{end}").is_file() for end in (".dat", ".csv"))


def read(folder: Path) -> Tables:
    """Ratings with times, movies with genres (and tags), users with gender, age and occupation where given."""
    old = (folder / "ratings.dat").is_file()
    mapping, movies, tags_file = (_DAT, _DAT_MOVIES, "tags.dat") if old else (_CSV, _CSV_MOVIES, "tags.csv")
    if not (folder / "users.dat").is_file():
        mapping = replace(mapping, users=None)
    if (folder / tags_file).is_file():
        tags = Gather("tags", tags_file, movies.id, "tag")
        mapping = replace(mapping, items=replace(movies, text=(*movies.text, "Tags: {tags}."), gather=(tags,)))
    return read_mapping(mapping, folder)
