"""Mapping of raw annotation labels to training indices, from the benchmark's scannetv2-labels.combined.tsv."""

import csv
import hashlib
import io
from pathlib import Path
from typing import NamedTuple

from lg3d_core.errors import DataError
from lg3d_core.vocabulary.categories import Vocabulary

LABEL_TABLE_NAME = "scannetv2-labels.combined.tsv"
MAX_ID_DIGITS = 18


class LabelTable(NamedTuple):
    """Mapping of raw labels to training indices.

    Attributes:
        index_by_label: Training index of every raw label in the table, -1 if its id is outside the vocabulary. A label
            missing here is unmapped: treat it as -1 and report it.
        digest: SHA-256 of the file's bytes and of the vocabulary's synonyms, first 16 hex digits.
    """

    index_by_label: dict[str, int]
    digest: str


def read_label_table(path: Path, vocabulary: Vocabulary) -> LabelTable:
    """Read the raw label table for one vocabulary.

    Rows are matched on the exact `raw_category`, and the first row of a label is used. The id is that of the
    vocabulary's `id_column`. A synonym of a class that no row has is a raw label of that class. Line ends (LF or CRLF)
    and a byte-order mark have no effect.

    Raises:
        DataError: The file is missing, is not UTF-8, lacks a column, or has no row whose id is in the vocabulary.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the label table {path}: {error.strerror}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"label table {path} is not UTF-8 text ({error.reason} at byte {error.start})") from None
    reader = csv.DictReader(io.StringIO(text, newline=None), delimiter="\t", quoting=csv.QUOTE_NONE)
    needed = ("raw_category", vocabulary.id_column)
    try:
        missing = [column for column in needed if column not in (reader.fieldnames or ())]
        if missing:
            columns = ", ".join(map(str, reader.fieldnames or ())) or "none"
            raise DataError(
                f"label table {path} lacks the columns {missing}, expected {sorted(needed)} for the vocabulary "
                f"{vocabulary.name} (found {columns[:200]}): check that it is {LABEL_TABLE_NAME}"
            )
        rows = list(reader)
    except csv.Error as error:
        raise DataError(f"label table {path} is not a table of tab-separated text: {error}") from None
    index_by_label: dict[str, int] = {}
    for row in rows:
        label, raw_id = row["raw_category"], (row[vocabulary.id_column] or "").strip()
        if label is None or label in index_by_label:
            continue
        is_id = raw_id.isdecimal() and len(raw_id) <= MAX_ID_DIGITS
        index_by_label[label] = vocabulary.index_by_id.get(int(raw_id), -1) if is_id else -1
    for category in vocabulary.categories:
        for synonym in category.synonyms:
            index_by_label.setdefault(synonym, category.index)
    if all(index < 0 for index in index_by_label.values()):
        raise DataError(
            f"label table {path}: none of its {len(index_by_label)} raw labels has an id of the vocabulary "
            f"{vocabulary.name} in the column {vocabulary.id_column}: pass another --vocabulary, or correct the column"
        )
    digest = hashlib.sha256(data)
    for category in vocabulary.categories:
        for synonym in category.synonyms:
            digest.update(f"\n{category.index}\t{synonym}".encode())
    return LabelTable(index_by_label, digest.hexdigest()[:16])
