"""FAR-Trans: customers, financial assets and investment transactions of a European bank.

Customers and assets are listed once for each date on which something changed; the latest row counts.

Source: Sanz-Cruzado, Droukas and McCreadie, Fin-RecSys 2024, doi 10.5525/gla.researchdata.1658.
"""

from pathlib import Path

from lanner.data.sources.mapping import EntityColumns, InteractionColumns, SourceMapping, read_mapping
from lanner.data.tables import Tables

_FILES = ("transactions.csv", "customer_information.csv", "asset_information.csv")
_MAPPING = SourceMapping(
    "far-trans",
    InteractionColumns(
        "customerID",
        "ISIN",
        "transactions.csv",
        timestamp="timestamp",
        weight="totalValue",
        behaviour="transactionType",
    ),
    EntityColumns(
        "asset_information.csv",
        "ISIN",
        "assetName",
        (
            "{assetName}.",
            "{assetCategory}.",
            "Kind: {assetSubCategory}.",
            "Sector: {sector}.",
            "Industry: {industry}.",
        ),
        {"assetCategory": "", "assetSubCategory": "", "sector": "", "industry": "", "marketID": ""},
        latest="timestamp",
        keep="listed",
    ),
    EntityColumns(
        "customer_information.csv",
        "customerID",
        text=("{customerType} customer.", "Risk level: {riskLevel}.", "Investment capacity: {investmentCapacity}."),
        attributes={"customerType": "", "riskLevel": "", "investmentCapacity": ""},
        latest="timestamp",
        keep="listed",
    ),
)


def detect(folder: Path) -> bool:
    """Whether the folder holds customers, assets and transactions."""
    return all((folder / name).is_file() for name in _FILES)


def read(folder: Path) -> Tables:
    """Buys and sells as two behaviours weighted by their value in euros; all listed customers and assets."""
    return read_mapping(_MAPPING, folder)
