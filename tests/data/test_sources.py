"""Each reader on a small hand-written sample in the real format."""

import gzip
import json
from pathlib import Path

import polars as pl
import pytest

from lanner.data.interactions import Dataset
from lanner.data.sources import SOURCES, bundled, load
from lanner.errors import DataError


def write(folder: Path, **files: str | bytes) -> Path:
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def lines(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def events(dataset: Dataset) -> list[tuple[str, str]]:
    users, items = dataset.users.external, dataset.items.external
    return [(users[u], items[i]) for u, i in zip(dataset.interactions.user, dataset.interactions.item, strict=True)]


def attribute(dataset: Dataset, item: str, name: str, side: str = "item") -> list[str]:
    ids, catalogue = (
        (dataset.items, dataset.item_catalogue) if side == "item" else (dataset.users, dataset.user_catalogue)
    )
    one = catalogue.attributes[name]
    return [one.names[code] for code in one.codes[ids.row(item)]]


def test_movielens_dat(tmp_path):
    write(
        tmp_path,
        ratings__dat="1::1193::5::978300760\n10::661::3::978302109\n2::1193::4::978298413\n",
        movies__dat="661::James and the Giant Peach (1996)::Animation|Children's|Musical\n"
        "1193::Misérables: Les (1995)::Drama\n9::Unseen::Drama\n".encode("latin-1"),
        users__dat="1::F::1::10::48067\n2::M::56::16::70072\n10::M::25::15::55117\n",
    )
    data = load(tmp_path)
    assert events(data) == [("2", "1193"), ("1", "1193"), ("10", "661")]
    assert data.interactions.timestamp.tolist() == [second * 10**9 for second in (978298413, 978300760, 978302109)]
    assert data.interactions.weight.tolist() == [4.0, 5.0, 3.0]
    assert data.users.external == ("1", "2", "10")
    assert data.has_order
    assert data.item_catalogue.titles == ("James and the Giant Peach (1996)", "Misérables: Les (1995)")
    assert data.item_catalogue.texts[1] == "Misérables: Les (1995).\nGenres: Drama."
    assert attribute(data, "661", "genres") == ["Animation", "Children's", "Musical"]
    assert data.user_catalogue.texts[0] == "Gender: female.\nAge: under 18.\nOccupation: school student."
    assert data.rejected == {"item listed but in no interaction": 1}


def test_movielens_csv_with_tags(tmp_path):
    write(
        tmp_path,
        ratings__csv="userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n1,29,3.0,1260759179\n",
        movies__csv='movieId,title,genres\n31,"Dangerous, Minds (1995)",Drama\n29,City,(no genres listed)\n',
        tags__csv="userId,movieId,tag,timestamp\n1,31,school,1\n2,31,school,2\n3,31,gang,3\n",
    )
    data = load(tmp_path)
    assert (
        data.item_catalogue.texts[data.items.row(31)] == "Dangerous, Minds (1995).\nGenres: Drama.\nTags: school, gang."
    )
    assert attribute(data, "31", "tags") == ["school", "gang"]


def test_amazon_2014_with_literal_metadata(tmp_path):
    review = {
        "reviewerID": "A1",
        "asin": "0439",
        "overall": 5.0,
        "summary": "Good",
        "reviewText": "Nice",
        "unixReviewTime": 1365811200,
    }
    meta = (
        "{'asin': '0439', 'title': \"Kid's easel\", 'price': 36.2, 'brand': 'Melissa', "
        "'categories': [['Toys', 'Easels, big']]}\n"
    )
    write(
        tmp_path,
        reviews_Toys_5__json__gz=gzip.compress(lines(review, {**review, "reviewerID": "A2", "asin": "B1"}).encode()),
        meta_Toys__json__gz=gzip.compress(meta.encode()),
    )
    data = load(tmp_path)
    assert events(data) == [("A1", "0439"), ("A2", "B1")]
    assert data.item_catalogue.texts == ("Kid's easel.\nBy Melissa.\n\nToys, Easels, big.\n\n", "")
    assert data.item_catalogue.titles == ("Kid's easel", "B1")
    assert attribute(data, "0439", "categories") == ["Toys", "Easels, big"]


def test_amazon_2018(tmp_path):
    review = {
        "overall": 4.0,
        "verified": True,
        "reviewerID": "A1",
        "asin": "B00",
        "style": {"Size:": "S"},
        "unixReviewTime": 1500000000,
    }
    meta = {
        "asin": "B00",
        "title": "Drill",
        "brand": "Bosch",
        "category": ["Tools", "Drills"],
        "description": ['A "fast" drill'],
        "feature": [],
    }
    write(tmp_path, Tools_5__json=lines(review), meta_Tools__json=lines(meta))
    data = load(tmp_path)
    assert data.item_catalogue.texts == ('Drill.\nBy Bosch.\nTools, Drills.\n\n\nA "fast" drill',)
    assert attribute(data, "B00", "category") == ["Tools", "Drills"]
    assert attribute(data, "B00", "brand") == ["Bosch"]


def test_amazon_2023_in_milliseconds(tmp_path):
    review = {
        "rating": 5.0,
        "title": "Great",
        "text": "Works",
        "asin": "X1",
        "parent_asin": "P1",
        "user_id": "AE",
        "timestamp": 1588687728923,
    }
    meta = {
        "parent_asin": "P1",
        "main_category": "Beauty",
        "title": "Spray",
        "store": "Acme",
        "features": ["light"],
        "categories": [],
    }
    write(tmp_path, Beauty__jsonl=lines(review), meta_Beauty__jsonl=lines(meta))
    data = load(tmp_path)
    assert events(data) == [("AE", "P1")]
    assert data.interactions.timestamp.tolist() == [1588687728923 * 10**6]
    assert data.item_catalogue.texts == ("Spray.\nBy Acme.\nBeauty.\n\nlight\n",)


def test_amazon_without_metadata_takes_first_reviews(tmp_path):
    review = {
        "reviewerID": "A1",
        "asin": "B00",
        "overall": 4.0,
        "unixReviewTime": 9,
        "summary": "Later",
        "reviewText": "b",
        "helpful": [2, 3],
    }
    write(tmp_path, Tools_5__json=lines(review, {**review, "unixReviewTime": 1, "summary": "First", "reviewText": "a"}))
    data = load(tmp_path)
    assert data.item_catalogue.texts == ("First. a Later. b",)
    assert data.unread == ("helpful",)


def test_yelp(tmp_path):
    review = {
        "review_id": "r",
        "user_id": "u1",
        "business_id": "b1",
        "stars": 4.0,
        "text": "x",
        "date": "2018-07-07 22:09:11",
    }
    write(
        tmp_path,
        yelp_academic_dataset_review__json=lines(review, {**review, "user_id": "u2", "date": "2017-01-01 00:00:00"}),
        yelp_academic_dataset_business__json=lines(
            {"business_id": "b1", "name": "Cafe", "city": "Reno", "categories": "Food, Coffee & Tea", "hours": None}
        ),
        yelp_academic_dataset_user__json=lines(
            {"user_id": "u1", "name": "Ann", "friends": "u2, u9"}, {"user_id": "u2", "name": "Bo", "friends": "None"}
        ),
    )
    data = load(tmp_path)
    assert events(data) == [("u2", "b1"), ("u1", "b1")]
    assert data.interactions.timestamp.tolist() == [1483228800 * 10**9, 1531001351 * 10**9]
    assert data.item_catalogue.texts == ("Cafe.\nCategories: Food, Coffee & Tea.\nIn Reno.",)
    assert attribute(data, "b1", "categories") == ["Food", "Coffee & Tea"]
    assert [data.ties[row].tolist() for row in range(2)] == [[1], []]
    assert data.rejected == {"tie to an unknown user": 1}
    assert data.rejected_rows["line"].to_list() == [1]
    assert data.user_catalogue.titles == ("Ann", "Bo")


def test_lastfm_hetrec(tmp_path):
    write(
        tmp_path,
        user_artists__dat="userID\tartistID\tweight\n2\t51\t13883\n3\t52\t11690\n",
        artists__dat='id\tname\turl\tpictureURL\n51\tDuran "Duran\tu\tp\n52\tMorcheeba\tu\tp\n',
        tags__dat="tagID\ttagValue\n1\tmétal\n2\tpop\n".encode("latin-1"),
        user_taggedartists__dat="userID\tartistID\ttagID\tday\tmonth\tyear\n2\t51\t2\t1\t4\t2009\n3\t51\t2\t1\t4\t2009\n3\t51\t1\t1\t4\t2009\n",
        user_friends__dat="userID\tfriendID\n2\t3\n3\t2\n2\t2\n2\t77\n2\t3\n",
    )
    data = load(tmp_path)
    assert data.interactions.weight.tolist() == [13883.0, 11690.0]
    assert data.item_catalogue.texts == ('Duran "Duran.\nTags: pop, métal.', "Morcheeba.\n")
    assert [data.ties[row].tolist() for row in range(2)] == [[1], [0]]
    assert data.rejected == {"tie given twice": 1, "tie to an unknown user": 1, "tie to oneself": 1}


def test_far_trans(tmp_path):
    write(
        tmp_path,
        transactions__csv="customerID,ISIN,transactionID,transactionType,timestamp,totalValue,units,channel,marketID\n"
        "C1,GR1,1,Buy,2018-01-02,100.5,3,Phone,XATH\nC1,GR1,2,Sell,2018-02-02,80,3,Phone,XATH\n",
        customer_information__csv="customerID,customerType,riskLevel,investmentCapacity,lastQuestionnaireDate,timestamp\n"
        "C1,Mass,Income,CAP_LT_30K,2018-01-01,2020-01-01\nC1,Mass,Balanced,CAP_LT_30K,2018-01-01,2019-01-01\nC2,Premium,Income,CAP_LT_30K,,2019-01-01\n",
        asset_information__csv="ISIN,assetName,assetShortName,assetCategory,assetSubCategory,marketID,sector,industry,timestamp\n"
        "GR1,HELLENIC,HTO,Stock,,XATH,Technology,Telecom,2018-01-02\nGR2,,B,Bond,,XATH,,,2018-01-02\n",
    )
    data = load(tmp_path)
    assert data.interactions.behaviours == ("Buy", "Sell")
    assert data.interactions.behaviour.tolist() == [0, 1]
    assert data.users.external == ("C1", "C2")
    assert attribute(data, "C1", "riskLevel", "user") == ["Income"], "the latest row of a customer counts"
    assert data.item_catalogue.texts == (
        "HELLENIC.\nStock.\n\nSector: Technology.\nIndustry: Telecom.",
        "\nBond.\n\n\n",
    )
    assert data.histories.lengths.tolist() == [2, 0]
    assert data.rejected == {}


def test_lightgcn(tmp_path):
    write(tmp_path, train__txt="0 0 1 2\n1 2\n2\n", test__txt="0 3\n1 0 \n")
    data = load(tmp_path)
    assert events(data) == [("0", "0"), ("0", "1"), ("0", "2"), ("1", "2"), ("0", "3"), ("1", "0")]
    assert data.interactions.partitions == ("train", "test")
    assert data.interactions.partition.tolist() == [0, 0, 0, 0, 1, 1]
    assert data.interactions.take(data.interactions.partition == 1).partition.tolist() == [1, 1]


def test_recbole(tmp_path):
    write(
        tmp_path,
        shop__inter="user_id:token\titem_id:token\trating:float\ttimestamp:float\nu1\ti1\t4\t2\nu2\ti1\t3\t1\n",
        shop__item="item_id:token\tmovie_title:token_seq\tgenre:token_seq\tprice:float\n"
        "i1\tToy Story\tComedy Kids\t3\n",
        shop__user="user_id:token\tgender:token\nu1\tF\nu2\tM\n",
        shop__net="source_id:token\ttarget_id:token\nu1\tu2\n",
    )
    data = load(tmp_path)
    assert events(data) == [("u2", "i1"), ("u1", "i1")]
    assert data.item_catalogue.texts == ("Toy Story.\nGenre: Comedy, Kids.",)
    assert attribute(data, "i1", "genre") == ["Comedy", "Kids"]
    assert attribute(data, "u1", "gender", "user") == ["F"]
    assert data.ties[0].tolist() == [1]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet", "jsonl"])
def test_single_file(tmp_path, suffix):
    frame = pl.DataFrame({"user_id": ["ü", "b"], "item": [7, 70], "rating": [1.5, 2.0], "timestamp": [20, 10]})
    path = tmp_path / f"events.{suffix}"
    writers = {"csv": frame.write_csv, "parquet": frame.write_parquet, "jsonl": frame.write_ndjson}
    frame.write_csv(path, separator="\t") if suffix == "tsv" else writers[suffix](path)
    data = load(path)
    assert events(data) == [("b", "70"), ("ü", "7")]
    assert data.interactions.weight.tolist() == [2.0, 1.5]


def test_formats_can_be_named_and_unknown_ones_are_refused(tmp_path):
    write(tmp_path, train__txt="0 0\n", test__txt="0 1\n")
    (tmp_path / "empty").mkdir()
    assert "lightgcn" in SOURCES
    assert load(tmp_path, "lightgcn").num_items == 2
    with pytest.raises(DataError, match="unknown format 'lightgnc'"):
        load(tmp_path, "lightgnc")
    with pytest.raises(DataError, match="no known format"):
        load(tmp_path / "empty")


def test_bundled_dataset():
    data = load(bundled("ml-latest-small"))
    assert (data.num_users, data.num_items, len(data.interactions)) == (671, 9066, 100004)
    assert data.has_order
    assert all(data.item_catalogue.texts)
    folder = bundled("ml-latest-small").parent
    assert (folder / "GROUPLENS_README.txt").is_file(), "redistribution is allowed with the licence only"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 700 * 1024
    with pytest.raises(DataError, match="known: ml-latest-small"):
        bundled("ml-25m")
