"""The tables, as both databases understand them.

A user's id stands in ``people`` alone and everything else holds their number, so that to forget somebody is to rewrite
one small table. Of those who were forgotten a salted digest stays, by which what a bundle holds of them is passed over.
Keys of events are kept as digests: they may have been made of ids.
"""

from secrets import token_hex

VERSION = 1

_TABLES = """
CREATE TABLE counter (sequence BIGINT NOT NULL, salt TEXT NOT NULL);
INSERT INTO counter VALUES (0, '{salt}');
CREATE TABLE people (number {numbered}, id TEXT NOT NULL UNIQUE, profile TEXT, changed BIGINT);
CREATE INDEX people_changed ON people (changed) WHERE changed IS NOT NULL;
CREATE TABLE events (sequence {key}, person BIGINT NOT NULL, item TEXT NOT NULL, behaviour TEXT NOT NULL,
    weight DOUBLE PRECISION, timestamp DOUBLE PRECISION NOT NULL, key {bytes});
CREATE INDEX events_history ON events (person, timestamp, sequence);
CREATE UNIQUE INDEX events_key ON events (key) WHERE key IS NOT NULL;
CREATE TABLE ties (person BIGINT NOT NULL, friend BIGINT NOT NULL, position BIGINT NOT NULL,
    PRIMARY KEY (person, friend));
CREATE INDEX ties_friend ON ties (friend);
CREATE TABLE items (id TEXT NOT NULL PRIMARY KEY, sequence BIGINT NOT NULL, body TEXT);
CREATE INDEX items_sequence ON items (sequence);
CREATE TABLE exposures (sequence {key}, experiment TEXT NOT NULL, arm TEXT NOT NULL, person BIGINT NOT NULL,
    timestamp DOUBLE PRECISION NOT NULL, items TEXT NOT NULL);
CREATE INDEX exposures_experiment ON exposures (experiment, sequence);
CREATE INDEX exposures_person ON exposures (person);
CREATE TABLE forgotten (sequence {key}, digest {bytes} NOT NULL);
CREATE INDEX forgotten_digest ON forgotten (digest)
"""


def tables(numbered: str, key: str, bytes: str) -> list[str]:
    """Statements that make the tables; the types of a number given by the database, of a given number, and of bytes."""
    return _TABLES.format(numbered=numbered, key=key, bytes=bytes, salt=token_hex(16)).strip().split(";\n")
