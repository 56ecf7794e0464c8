"""Takes text files, returns what pretraining_files does, made by Apache Beam; next: text_tables.

For a corpus that is too large for one machine. The steps are those of pretraining_sections:

1. sections of the text are tokenized, and their counts tell from which number on the sentences and
   documents of each are numbered;
2. each section plans its instances and makes those that need no other; the others are requested
   from the sections that hold their second texts, and made there;
3. records are gathered in buckets by their random order; each bucket is sorted, and cut where one
   output file ends and the next begins;
4. the parts of each file are joined, and when all are whole they get their names.

So the files hold the same records in the same order as those that pretraining_files makes. Files
may lie in any file system that Beam was installed with (``gs://…``); the workers must reach them,
but not the vocabulary's file, which is copied beside the output for the time of the run. Workers
need this package.
"""

import bisect
import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import logging
import pathlib
import re
import shlex
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np

from bert_tf import corpus_health, gzip_parts
from bert_tf.config import PretrainingData
from bert_tf.errors import InputError
from bert_tf.gzip_parts import Checksum
from bert_tf.pretraining_files import (
    compresses,
    log_result,
    manifest_of,
    no_text,
    output_files,
    output_names,
    refuse_to_replace_inputs,
    warn_of_equal_copies,
)
from bert_tf.pretraining_records import RecordMaker, Statistics, record_maker
from bert_tf.pretraining_sections import (
    Overview,
    Place,
    Records,
    Requests,
    SectionSummary,
    SectionText,
    make_own,
    make_requested,
    plan_section,
    read_section,
    sort_records,
)
from bert_tf.record_manifest import has_unfinished_run, manifest_path, work_folder
from bert_tf.text_files import SECTION_BYTES, find_files, is_gzip, open_bytes
from bert_tf.tfrecord import frame_records

try:
    import apache_beam as beam
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.pvalue import AsIter, AsSingleton, TaggedOutput
except ModuleNotFoundError as missing:
    raise InputError(
        f"--runner needs Apache Beam, and there is no module {missing.name}; install it with "
        "pip install 'bert-tf[beam]', or leave --runner out"
    ) from missing

# Neighbouring sections that are read by one task. A bucket's files are read 16 MB at a time, which
# is not to be thrown away; but a small file should still give several tasks.
_MOST_NEIGHBOURS, _TASKS_OF_FILE = 32, 16
_COPIED = 1 << 22  # bytes at a time
# What steps give beside their main results.
_SUMMARIES, _COUNTS, _REQUESTS, _STATISTICS = "summaries", "counts", "requests", "statistics"
# In the work folder, beside files without telling names.
_VOCABULARY, _RESULTS, _MANIFEST = "vocab.txt", "results.json", "manifest.json"

log = logging.getLogger(__name__)


def create(settings: PretrainingData) -> dict[str, Any]:
    """Writes the files, and beside them a manifest. A run that was cut off begins anew.

    Returns:
        What the manifest holds. What it says of the text is less than pretraining_files finds out;
        ``not_examined`` names what is left out.

    Raises:
        InputError: for whatever is wrong with files or settings; no file has its final name then.
    """
    record_maker.cache_clear()  # the vocabulary's file may be another one by now
    record_maker(settings)  # here, so that what is wrong with the settings is known at once
    pipeline = _new_pipeline(settings)
    with _reported("--input_file"):
        inputs = {name: _File(name).size() for name in _find_inputs(settings.input_file or "")}
    with _reported("--output_file"):
        outputs, manifest_name = _claim_outputs(settings, list(inputs))
        warn_of_equal_copies(settings)
        folder, name = FileSystems.split(outputs[0])
        work = FileSystems.join(folder, f".{name}.beam-{uuid.uuid4().hex[:8]}")
        FileSystems.mkdirs(work)
    try:
        log.info("%s makes the records of %d files", settings.runner, len(inputs))
        with _new_file(f"{work}/{_VOCABULARY}") as file:
            file.write(pathlib.Path(settings.vocab_file or "").read_bytes())
        run = _Run(settings, tuple(outputs), work)
        _build(pipeline, run, list(inputs))
        _wait(pipeline)
        results = _read_results(run)
        for warning in corpus_health.warnings(results["text"]):
            log.warning("warning: %s", warning)
        shards = sorted(results["outputs"], key=lambda shard: outputs.index(shard["name"]))
        made = [shard.pop("path") for shard in shards]
        statistics = Statistics.from_json(results["statistics"])
        manifest = manifest_of(settings, inputs, results["text"], shards, statistics)
        with _new_file(f"{work}/{_MANIFEST}") as file:
            file.write((json.dumps(manifest, indent=2) + "\n").encode())
        with _reported("--output_file"):
            for name in (manifest_name, *outputs):
                if FileSystems.exists(name):  # over which not every file system renames another
                    _remove(name)
            FileSystems.rename([*made, f"{work}/{_MANIFEST}"], [*outputs, manifest_name])
        log_result(manifest, manifest_name)
        return manifest
    finally:
        try:
            _remove(f"{work}/")
        except OSError as error:
            log.warning("warning: cannot remove %s, which nothing needs any more: %s", work, error)


# --- files --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _File:
    """A file in any of Beam's file systems: see text_files.ByteFile."""

    name: str

    def __str__(self) -> str:
        return self.name

    def open(self, mode: str) -> IO[bytes]:
        assert mode == "rb"
        try:
            opened: IO[bytes] = FileSystems.open(
                self.name, compression_type=CompressionTypes.UNCOMPRESSED
            )
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error)) from error
        return opened

    def size(self) -> int:
        return int(FileSystems.get_filesystem(self.name).size(self.name))


def _is_remote(name: str) -> bool:
    return FileSystems.get_scheme(name) is not None


def _find_inputs(patterns: str) -> list[str]:
    """The files that ``--input_file`` names; the files of a glob are sorted."""
    found: list[str] = []
    for pattern in filter(None, (part.strip() for part in patterns.split(","))):
        if _is_remote(pattern):
            (match,) = FileSystems.match([pattern])
            names = sorted(metadata.path for metadata in match.metadata_list)
            if not names:
                raise InputError(f"--input_file: no file is called {pattern}")
        else:
            names = [str(path) for path in find_files(pattern, "--input_file")]
        found += names
    if not found:
        raise InputError(
            "--input_file is missing: give a file's name, or several, separated by commas"
        )
    return list(dict.fromkeys(found))


def _claim_outputs(settings: PretrainingData, inputs: Sequence[str]) -> tuple[list[str], str]:
    """The names of the output files and of the manifest, once it is clear that they are free."""
    outputs = output_names(settings)
    if len({FileSystems.split(name)[0] for name in outputs}) > 1:
        raise InputError(
            f"--output_file {settings.output_file}: with --runner, give names in one folder"
        )
    if not _is_remote(outputs[0]):
        paths = output_files(settings)
        local = [pathlib.Path(name) for name in inputs if not _is_remote(name)]
        refuse_to_replace_inputs(settings, local, paths)
        if has_unfinished_run(paths[0]):
            raise InputError(
                f"--output_file {paths[0]}: there is an unfinished run without --runner, in "
                f"{work_folder(paths[0])}; repeat its command to finish it, or delete that folder"
            )
    for name in outputs:
        if name in inputs:
            raise InputError(f"--output_file {name}: is an --input_file too; give another name")
        if outputs.count(name) > 1:
            raise InputError(f"--output_file {settings.output_file}: a name is there twice")
    folder, first = FileSystems.split(outputs[0])
    manifest = FileSystems.join(folder, manifest_path(pathlib.Path(first)).name)
    for name in (*outputs, manifest):
        if FileSystems.exists(name) and not settings.overwrite:
            raise InputError(
                f"--output_file {name}: is there already; give another name, or --overwrite to "
                "replace it"
            )
    return outputs, manifest


@contextlib.contextmanager
def _new_file(name: str) -> Iterator[IO[bytes]]:
    """A file to write to, closed at the end."""
    try:
        with FileSystems.create(name, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            yield file
    except OSError as error:
        raise InputError(f"--output_file: cannot write {name}: {error}") from error


@contextlib.contextmanager
def _reported(flag: str) -> Iterator[None]:
    """Says which flag it is that a file system complains about."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError) as error:  # a ValueError is of an unknown scheme
        raise InputError(f"{flag}: {error}") from error


def _remove(name: str) -> None:
    """Removes a file, or a folder, whose name ends with a slash."""
    if _is_remote(name):
        FileSystems.delete([name])
    elif name.endswith("/"):
        shutil.rmtree(name)
    else:
        pathlib.Path(name).unlink()


# --- the run ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Run:
    """What every worker knows.

    Attributes:
        settings: the run's.
        outputs: names of the output files.
        work: the folder of what is needed during the run only.
    """

    settings: PretrainingData
    outputs: tuple[str, ...]
    work: str

    @property
    def maker(self) -> RecordMaker:
        return _maker(self.settings, f"{self.work}/{_VOCABULARY}")

    def new_name(self) -> str:
        """For a file in the work folder; work that is done twice gets two."""
        return f"{self.work}/{uuid.uuid4().hex}"


@functools.lru_cache(1)
def _maker(settings: PretrainingData, vocabulary: str) -> RecordMaker:
    with tempfile.NamedTemporaryFile() as copy:
        with _File(vocabulary).open("rb") as file:
            copy.write(file.read())
        copy.flush()
        return RecordMaker(dataclasses.replace(settings, vocab_file=copy.name))


def _new_pipeline(settings: PretrainingData) -> beam.Pipeline:
    """An empty pipeline.

    Raises:
        InputError: for a runner or options that Beam refuses. It warns of those it does not know.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            options = PipelineOptions(
                shlex.split(settings.beam_options or ""),
                runner=settings.runner,
                # For this, DirectRunner does not first try to get another runner from the network.
                # There are no triggers that it could make unsafe.
                allow_unsafe_triggers=True,
            )
            options.get_all_options()
            return beam.Pipeline(options=options)
    except (ValueError, ImportError, AttributeError, SystemExit) as error:
        # With SystemExit, argparse has printed what is wrong.
        reason = printed.getvalue().rpartition("error: ")[2] or str(error)
        given = f"--runner={settings.runner} with --beam_options={settings.beam_options or ''!r}"
        raise InputError(f"{given}: {' '.join(reason.split())}") from error


def _wait(pipeline: beam.Pipeline) -> None:
    workers_log = logging.getLogger("apache_beam.runners.common")
    workers_log.addFilter(_is_no_mistake)
    try:
        pipeline.run().wait_until_finish()
    except Exception as error:
        # What a worker raises mostly arrives as text, in an exception of the runner's own kind.
        text = f"{type(error).__name__}: {error}"
        mistakes = re.findall(r"\bInputError: (.+?)(?: \[while running|$)", text, re.MULTILINE)
        if not mistakes:
            raise
        raise InputError(mistakes[-1]) from error
    finally:
        workers_log.removeFilter(_is_no_mistake)


def _is_no_mistake(entry: logging.LogRecord) -> bool:
    """Whether a worker in this process may log it; mistakes of users are reported without that."""
    return not entry.exc_info or not isinstance(entry.exc_info[1], InputError)


def _read_results(run: _Run) -> dict[str, Any]:
    try:
        with _File(f"{run.work}/{_RESULTS}").open("rb") as file:
            results: dict[str, Any] = json.loads(file.read())
    except OSError as error:
        raise InputError(
            f"--output_file {run.settings.output_file}: the workers of {run.settings.runner} wrote "
            "nothing there that can be seen from here; give a name in storage that both reach"
        ) from error
    return results


# --- the pipeline -------------------------------------------------------------------------------


def _build(pipeline: beam.Pipeline, run: _Run, inputs: Sequence[str]) -> None:
    read = (
        pipeline
        | "Files" >> beam.Create(list(enumerate(inputs)))
        | "Sections" >> beam.FlatMap(_sections, run)
        | "Spread" >> beam.Reshuffle()
        | "Tokenize" >> beam.FlatMap(_tokenize, run).with_outputs(_SUMMARIES, main="texts")
    )
    overview = AsSingleton(
        read[_SUMMARIES]
        | "All summaries" >> beam.combiners.ToList()
        | "Overview" >> beam.Map(_overview, run)
    )
    planned = read.texts | "Plan" >> beam.FlatMap(_plan, run, overview).with_outputs(
        _COUNTS, _REQUESTS, _STATISTICS, main="records"
    )
    made = [planned]
    if run.settings.next_sentence == "nsp":
        texts = read.texts | "Index" >> beam.Map(_by_section, overview)
        paired = (
            {"texts": texts, _REQUESTS: planned[_REQUESTS]}
            | "Join" >> beam.CoGroupByKey()
            | "Pair" >> beam.FlatMap(_pair, run, overview).with_outputs(_STATISTICS, main="records")
        )
        made.append(paired)
    statistics = AsSingleton(
        [step[_STATISTICS] for step in made]
        | "All statistics" >> beam.Flatten()
        | "Add statistics"
        >> beam.CombineGlobally(_sum, Statistics.zero(run.settings.max_seq_length))
    )
    counts = AsSingleton(
        planned[_COUNTS]
        | "Add counts" >> beam.CombineGlobally(_sum, np.zeros(1, np.int64))
        | "Check counts" >> beam.Map(_check_counts, run, overview)
    )
    parts = (
        [step.records for step in made]
        | "All records" >> beam.Flatten()
        | "Buckets" >> beam.GroupByKey()
        | "Sort" >> beam.FlatMap(_write_parts, run, counts)
    )
    files = pipeline | "Output files" >> beam.Create([(i, None) for i in range(len(run.outputs))])
    described = (
        {"files": files, "parts": parts}
        | "Gather" >> beam.CoGroupByKey()
        | "Put together" >> beam.Map(_join_parts, run, counts)
    )
    _ = (
        pipeline
        | "Once" >> beam.Create([run])
        | "Results" >> beam.Map(_write_results, overview, statistics, AsIter(described))
    )


@dataclasses.dataclass(frozen=True)
class _Neighbours:
    """Sections of a file that follow one another.

    Attributes:
        first: the first of them.
        num_sections: how many.
        name: what to call the file in a report.
        path: where its text is, not compressed.
    """

    first: Place
    num_sections: int
    name: str
    path: str


def _sections(numbered: tuple[int, str], run: _Run) -> Iterator[Any]:
    """The sections of a file; a compressed one, in which no place can be gone to, is copied."""
    number, name = numbered
    file = _File(name)
    if is_gzip(file):
        file = _File(run.new_name())
        with open_bytes(_File(name)) as source, _new_file(file.name) as target:
            shutil.copyfileobj(source, target)
    num_sections = -(-file.size() // SECTION_BYTES)
    step = max(1, min(_MOST_NEIGHBOURS, num_sections // _TASKS_OF_FILE))
    for first in range(0, num_sections, step):
        length = min(step, num_sections - first)
        yield _Neighbours(Place(number, first), length, name, file.name)


def _tokenize(neighbours: _Neighbours, run: _Run) -> Iterator[Any]:
    """Each section's SectionText, and its SectionSummary."""
    file_number, first = neighbours.first
    with _File(neighbours.path).open("rb") as file:
        for number in range(first, first + neighbours.num_sections):
            place = Place(file_number, number)
            text, summary = read_section(file, place, neighbours.name, run.maker)
            yield text
            yield TaggedOutput(_SUMMARIES, summary)


def _overview(summaries: Sequence[SectionSummary], run: _Run) -> Any:
    overview = Overview.of(summaries, run.maker)
    if not overview.report["documents"]:
        raise no_text(run.settings, overview.report)
    return overview


def _by_section(text: SectionText, overview: Overview) -> Any:
    return overview.index(text), text


def _plan(text: SectionText, run: _Run, overview: Overview) -> Iterator[Any]:
    """A section's own records by bucket; requests by section, counts and statistics."""
    maker = run.maker
    plan = plan_section(text, overview, maker.rule)
    yield TaggedOutput(_COUNTS, np.append(plan.counts, 1))  # and one section
    for request in plan.requests:
        yield TaggedOutput(_REQUESTS, (request.section, request))
    yield from _by_bucket(make_own(text, overview, plan.own, maker))


def _pair(
    asked: tuple[int, Mapping[str, Iterable[Any]]], run: _Run, overview: Overview
) -> Iterator[Any]:
    """The records that other sections, or it itself, have requested from a section."""
    (text,) = asked[1]["texts"]
    requests: Iterable[Requests] = asked[1][_REQUESTS]
    yield from _by_bucket(make_requested(text, overview, requests, run.maker))


def _by_bucket(made: Iterable[tuple[list[Records], Statistics]]) -> Iterator[Any]:
    for batches, statistics in made:
        for records in batches:
            yield records.bucket, records
        yield TaggedOutput(_STATISTICS, statistics)


def _sum(values: Iterable[Any], zero: Any) -> Any:
    return sum(values, zero)


def _check_counts(counts: np.ndarray, run: _Run, overview: Overview) -> Any:
    """The number of records in each bucket, int64 [num_buckets], of all sections."""
    *of_buckets, num_sections = counts.tolist()
    if num_sections != len(overview.places):
        raise _lost(run, f"{num_sections} of {len(overview.places)} sections of the text")
    return np.array(of_buckets, np.int64)


def _lost(run: _Run, what: str) -> InputError:
    """What to raise when a step did not get all that another gave.

    It was seen of Beam 2.77's DirectRunner with multi_processing, that it lost 10 MB on the way.
    """
    return InputError(
        f"--runner={run.settings.runner} lost data on the way: {what} arrived. Nothing was "
        "written; repeat the command, with fewer workers or another runner if this happens again"
    )


@dataclasses.dataclass(frozen=True)
class _Part:
    """A part of an output file.

    Attributes:
        rank: how many records come before it, in all files.
        path: where it is.
        num_records: in it.
        checksum: of the records, not compressed.
    """

    rank: int
    path: str
    num_records: int
    checksum: Checksum


def _write_parts(
    gathered: tuple[int, Iterable[Records]], run: _Run, counts: np.ndarray
) -> Iterator[Any]:
    """The parts that a bucket has in output files, each after the file's number.

    Args:
        gathered: a bucket and its records.
        run: the run.
        counts: int64 [num_buckets], records of each.
    """
    bucket, batches = gathered
    records = sort_records(batches)
    if len(records) != counts[bucket]:
        raise _lost(run, f"{len(records)} of {counts[bucket]} records")
    begin = int(counts[:bucket].sum())
    end = begin + len(records)
    borders = _borders(run, counts)
    rank = begin
    while rank < end:
        number = bisect.bisect_right(borders, rank) - 1
        stop = min(borders[number + 1], end)
        yield number, _write_part(records[rank - begin : stop - begin], rank, number, run)
        rank = stop


def _borders(run: _Run, counts: np.ndarray) -> list[int]:
    """How many records there are before each output file, and in all."""
    total, num_files = int(counts.sum()), len(run.outputs)
    return [total * i // num_files for i in range(num_files + 1)]


def _write_part(records: list[bytes], rank: int, number: int, run: _Run) -> _Part:
    row_splits = np.cumsum([0, *map(len, records)])
    framed = frame_records(np.frombuffer(b"".join(records), np.uint8), row_splits)
    compress = compresses(run.settings, run.outputs[number])
    part = _Part(rank, run.new_name(), len(records), Checksum.of(framed))
    with _new_file(part.path) as file:
        file.write(gzip_parts.compress(framed) if compress else framed)
    return part


def _join_parts(
    gathered: tuple[int, Mapping[str, Iterable[Any]]], run: _Run, counts: np.ndarray
) -> dict[str, Any]:
    """Puts an output file together; what the manifest says of it, and the ``path`` it has yet."""
    number, name = gathered[0], run.outputs[gathered[0]]
    parts: list[_Part] = sorted(gathered[1]["parts"], key=lambda part: part.rank)
    num_records = sum(part.num_records for part in parts)
    first, end = _borders(run, counts)[number : number + 2]
    if num_records != end - first:
        raise _lost(run, f"{num_records} of {end - first} records of {name}")
    path = run.new_name()
    digest = hashlib.sha256()
    num_bytes = 0
    with _new_file(path) as file:
        for data in _content(parts, compress=compresses(run.settings, name)):
            digest.update(data)
            num_bytes += len(data)
            file.write(data)
    return {
        "name": name,
        "num_records": num_records,
        "num_bytes": num_bytes,
        "sha256": digest.hexdigest(),
        "path": path,
    }


def _content(parts: Sequence[_Part], *, compress: bool) -> Iterator[bytes]:
    if compress:
        yield gzip_parts.HEADER
    for part in parts:
        with _File(part.path).open("rb") as file:
            while data := file.read(_COPIED):
                yield data
    if compress:
        yield gzip_parts.footer(sum((part.checksum for part in parts), Checksum()))


def _write_results(
    run: _Run, overview: Overview, statistics: Statistics, outputs: Iterable[dict[str, Any]]
) -> None:
    """Writes down what only the workers know."""
    results = {
        "text": overview.report,
        "statistics": statistics.to_json(),
        "outputs": list(outputs),
    }
    with _new_file(f"{run.work}/{_RESULTS}") as file:
        file.write(json.dumps(results).encode())
