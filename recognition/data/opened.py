"""Opening a record file for a set: what is known of it from its cache, or from its index and all its headers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from recognition.data import index_cache
from recognition.data.record_format import record_paths
from recognition.data.record_index import ImageRows
from recognition.data.recordio import RecordReader
from recognition.data.survey import BAD, IMAGE, OUTSIDE, Survey, survey


def open_records(path: str | os.PathLike, strict: bool = True) -> RecordReader:
    """A reader whose index has its `images`. Arguments and RecordError as RecordReader.

    Opened a second time, a file with a large index is as good as there: see index_cache.
    """
    records = record_paths(path)[0]
    if reader := _of_cache(records, strict):
        return reader
    if (sources := index_cache.sources_of(records)) is None:
        return _anew(path, strict)
    with index_cache.one_at_a_time(records, sources):
        return _of_cache(records, strict) or _anew(path, strict)


def open_reader(path: str | os.PathLike) -> RecordReader:
    """A reader that is not strict: of the cache, where there is one, and makes none."""
    return _of_cache(record_paths(path)[0], strict=False) or RecordReader(path, strict=False)


def images_of(found: Survey) -> ImageRows:
    """The images and the bad rows that a survey found."""
    rows, bad = np.flatnonzero(found.kind == IMAGE), np.flatnonzero(found.problem)
    return ImageRows(
        rows=rows,
        labels=found.label[rows].astype(np.int32),
        bad=bad,
        problem=found.problem[bad],
        value=found.label[bad],
        counts=tuple(np.bincount(found.kind, minlength=BAD)[:BAD].tolist()),
    )


def _of_cache(records: Path, strict: bool) -> RecordReader | None:
    sources = index_cache.sources_of(records)
    index = None if sources is None else index_cache.load(records, sources)
    if index is None or (strict and (index.images.problem == OUTSIDE).any()):  # reading it anew tells what is wrong
        return None
    return RecordReader(records, strict, index)


def _anew(path: str | os.PathLike, strict: bool) -> RecordReader:
    sources = index_cache.sources_of(record_paths(path)[0])  # before anything is read: what changes later shows
    reader = RecordReader(path, strict)
    reader.index.images = images_of(survey(reader))
    if sources is None:
        return reader
    index = index_cache.store(reader.index, sources)
    return RecordReader(path, strict, index)
