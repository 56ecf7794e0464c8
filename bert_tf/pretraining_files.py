"""Takes text files, returns TFRecord files for pretraining; next: text_tables.

The work has four steps, which any number of processes can share. Each leaves its results in a work
folder beside the output, from which a run that was cut off goes on:

1. sections of the text are tokenized, and joined to a corpus on disk;
2. it is planned which instances each section gives, and in which random order they come;
3. each output file is made in parts: instances are cut out, masked and encoded;
4. a file's parts are joined, and the file gets its name when it is whole.
"""

import contextlib
import fnmatch
import functools
import glob
import itertools
import json
import logging
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bert_tf import corpus_health
from bert_tf.config import PretrainingData, stored_settings, unimportant_settings
from bert_tf.corpus import Corpus, Section, join_sections, sections_of, tokenize_section
from bert_tf.errors import InputError, listed
from bert_tf.instance_plan import InstancePlan, join_runs, write_runs
from bert_tf.pretraining_data import Instances, mask_keys, plan_instances
from bert_tf.pretraining_records import RecordMaker, Statistics, record_maker
from bert_tf.record_manifest import CONFIGURATION, manifest_path, work_folder
from bert_tf.record_shard import Shard, ShardPart
from bert_tf.run_folder import LOCK, locked, write_json
from bert_tf.text_files import find_files, is_gzip, open_bytes
from bert_tf.tfrecord import frame_records
from bert_tf.worker_pool import WorkerPool, num_cores

_PART = 4096  # instances of a part, about
# Instances that are looked up in the corpus at once. Each may touch a page of its own of what is
# mapped into memory, and the kernel maps 64 kB or more around it.
_AT_ONCE = 512
_PLANNED_PARTS = 256  # tasks of the planning, at most

log = logging.getLogger(__name__)


def create(settings: PretrainingData) -> dict[str, Any]:
    """Writes the files, and beside them a manifest.

    Returns:
        What the manifest holds.

    Raises:
        InputError: for whatever is wrong with files or settings, and when the disk is full; no
            file that is not whole has its final name then.
    """
    inputs = find_files(settings.input_file or "", "--input_file")
    record_maker.cache_clear()  # the vocabulary's file may be another one by now
    maker = record_maker(settings)
    outputs = output_files(settings)
    warn_of_equal_copies(settings)
    refuse_to_replace_inputs(settings, inputs, outputs)
    configuration = _configuration(settings, inputs, maker)
    with _claimed(settings, outputs, configuration) as work:
        try:
            manifest = _Run(settings, inputs, maker, outputs, work)()
        except OSError as error:
            what = f"{error.filename}: " if error.filename else "cannot write it: "
            kept = (
                f"What is done so far is kept in {work}: the same command goes on from there, and "
                "deleting that folder gives its space back"
                if _has_progress(work)
                else "Nothing was done so far, and nothing is left of it"
            )
            raise InputError(
                f"--output_file {settings.output_file}: {what}{error.strerror or error}. {kept}"
            ) from error
    log_result(manifest, str(manifest_path(outputs[0])))
    return manifest


def output_files(settings: PretrainingData) -> list[pathlib.Path]:
    """The files that are to be made.

    Raises:
        InputError: for names that contradict ``num_shards``, that are there twice, or where there
            can be no file.
    """
    paths = [pathlib.Path(name) for name in output_names(settings)]
    if len(set(paths)) < len(paths):
        raise InputError(f"--output_file {settings.output_file}: a name is there twice")
    for path in paths:
        if path.is_dir():
            raise InputError(f"--output_file {path}: a folder; give the name of a file")
        if not path.parent.is_dir():
            raise InputError(
                f"--output_file {path}: there is no folder {path.parent}; make it, or give another "
                "name"
            )
    return paths


def output_names(settings: PretrainingData) -> list[str]:
    """What the files that are to be made are called, in whatever file system.

    Raises:
        InputError: if there is no name, or if there are several and ``num_shards`` too.
    """
    given = settings.output_file or ""
    names = [name.strip() for name in given.split(",") if name.strip()]
    if not names:
        raise InputError(f"--output_file {given!r}: holds no name; give where the records go")
    if settings.num_shards is None:
        return names
    if len(names) > 1:
        raise InputError(
            f"--num_shards={settings.num_shards}: --output_file names {len(names)} files; give "
            "one name, or leave --num_shards out"
        )
    count = settings.num_shards
    return [f"{names[0]}-{i:05}-of-{count:05}" for i in range(count)]


def refuse_to_replace_inputs(
    settings: PretrainingData, inputs: Sequence[pathlib.Path], outputs: Sequence[pathlib.Path]
) -> None:
    """Raises an InputError if a file is to be made that is read too, or would be the next time."""
    read = [("--input_file", path) for path in inputs]
    read.append(("--vocab_file", pathlib.Path(settings.vocab_file or "")))
    for output in outputs:
        for flag, path in read:
            if output.exists() and output.samefile(path):
                raise InputError(f"--output_file {output}: is {flag} {path} too; give another name")
        for pattern in (settings.input_file or "").split(","):
            if glob.has_magic(pattern) and _matches(output, pattern.strip()):
                raise InputError(
                    f"--output_file {output}: --input_file {pattern.strip()} would name it too, "
                    "once it is there; give another name, or a narrower pattern"
                )


def _matches(path: pathlib.Path, pattern: str) -> bool:
    """Whether a glob would find a path."""
    parts, patterns = (pathlib.Path(p).absolute().parts for p in (path, pattern))
    return len(parts) == len(patterns) and all(map(fnmatch.fnmatchcase, parts, patterns))


def compresses(settings: PretrainingData, name: str) -> bool:
    """Whether an output file is compressed; a shard's name ends with its number."""
    return settings.gzip_compress or re.search(r"\.gz(-\d+-of-\d+)?$", name) is not None


def warn_of_equal_copies(settings: PretrainingData) -> None:
    """Says so if going through the text several times gives the same records again."""
    is_random = settings.masking == "static" or settings.next_sentence == "nsp"
    if settings.dupe_factor > 1 and not is_random:
        log.warning(
            "warning: --dupe_factor=%d: all copies are the same with --masking=dynamic and "
            "--next_sentence=none; --dupe_factor=1 is enough",
            settings.dupe_factor,
        )


def log_result(manifest: Mapping[str, Any], name: str) -> None:
    """Says where everything is.

    Args:
        manifest: what it holds.
        name: of its file.
    """
    names = [output["name"] for output in manifest["outputs"]]
    log.info(
        "%d records are in %s; %s says what they are like",
        manifest["statistics"]["num_records"],
        listed(names, most=2),
        name,
    )


def no_text(settings: PretrainingData, text: Mapping[str, Any]) -> InputError:
    """What to raise when there is nothing to make instances from."""
    return InputError(
        f"--input_file {settings.input_file}: no text: {text['lines']} lines, none with a word "
        "piece; expected one sentence a line and a blank line between documents"
    )


def manifest_of(
    settings: PretrainingData,
    inputs: Mapping[str, int],
    text: Mapping[str, Any],
    outputs: Sequence[Mapping[str, Any]],
    statistics: Statistics,
) -> dict[str, Any]:
    """What the manifest says.

    Args:
        settings: the run's.
        inputs: name -> bytes of each text file.
        text: what corpus_health says of them.
        outputs: of each output file ``name``, ``num_records``, ``num_bytes`` and ``sha256``.
        statistics: of all records.
    """
    vocabulary = record_maker(settings).tokenizer.vocabulary
    return {
        "configuration": stored_settings(settings),
        "vocabulary": {"num_pieces": len(vocabulary), "sha256": vocabulary.sha256},
        "inputs": [{"name": name, "num_bytes": size} for name, size in inputs.items()],
        "text": text,
        "outputs": outputs,
        "statistics": statistics.described(settings.next_sentence),
    }


def _configuration(
    settings: PretrainingData, inputs: Sequence[pathlib.Path], maker: RecordMaker
) -> dict[str, Any]:
    """What a run's records depend on."""
    unimportant = unimportant_settings(PretrainingData)
    important = {
        name: value for name, value in stored_settings(settings).items() if name not in unimportant
    }
    return {
        **important,
        "vocabulary": maker.tokenizer.vocabulary.sha256,
        "inputs": [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in inputs],
    }


@contextlib.contextmanager
def _claimed(
    settings: PretrainingData, outputs: Sequence[pathlib.Path], configuration: dict[str, Any]
) -> Iterator[pathlib.Path]:
    """The work folder of a run, which is new, or was left by the same run when it was cut off."""
    manifest = manifest_path(outputs[0])
    work = work_folder(outputs[0])

    def check() -> bool:
        return _goes_on(work, (*outputs, manifest), configuration, overwrite=settings.overwrite)

    check()  # before the lock, so that nothing is made for a run that is refused
    with locked(work, "--output_file: the work folder"):
        try:
            if check():  # again, because it may have changed before it was locked
                log.info("going on with the unfinished run in %s", work)
            else:
                _empty(work)
                write_json(work / CONFIGURATION, configuration)
            yield work
        except (InputError, KeyboardInterrupt):
            if not _has_progress(work):
                _remove(work)
            raise
        _remove(work)


def _remove(work: pathlib.Path) -> None:
    """Removes a work folder, or at least what says that the run is not finished."""
    (work / CONFIGURATION).unlink(missing_ok=True)
    # Network file systems may keep the folder until the lock in it is closed.
    shutil.rmtree(work, ignore_errors=True)


def _goes_on(
    work: pathlib.Path,
    outputs: Sequence[pathlib.Path],
    configuration: dict[str, Any],
    *,
    overwrite: bool,
) -> bool:
    """Whether an unfinished run is gone on with; if not, a new one may start.

    Raises:
        InputError: if neither may be.
    """
    try:
        stored = json.loads((work / CONFIGURATION).read_text())
    except (FileNotFoundError, NotADirectoryError):
        for path in () if overwrite else outputs:
            if path.exists():
                raise InputError(
                    f"--output_file {path}: is there already; give another name, or --overwrite "
                    "to replace it"
                ) from None
        return False
    different = [name for name in configuration if stored.get(name) != configuration[name]]
    if different and not overwrite:
        raise InputError(
            f"--output_file {outputs[0]}: there is an unfinished run of another configuration (it "
            f"differs in {', '.join(different)}), in {work}; repeat that command to finish it, or "
            "give --overwrite to drop what it has done"
        )
    if different:
        return False
    for i, path in enumerate(outputs[:-1]):
        if path.exists() and not overwrite and not _shard_folder(work, i).exists():
            raise InputError(
                f"--output_file {path}: is there already, and the unfinished run in {work} did not "
                "make it; move it away, or give --overwrite to replace it"
            )
    return True


def _shard_folder(work: pathlib.Path, number: int) -> pathlib.Path:
    return work / f"shard-{number:05}"


def _has_progress(work: pathlib.Path) -> bool:
    """Whether there is anything to go on from."""
    sections = (item for item in (work / "sections").glob("*") if item.suffix != ".tmp")
    return (work / "corpus").exists() or any(sections)


def _empty(work: pathlib.Path) -> None:
    # The configuration is replaced later: if this is cut off, what is left is still that run's.
    for item in work.iterdir():
        if item.is_dir():
            shutil.rmtree(item)
        elif item.name not in (LOCK, CONFIGURATION):
            item.unlink()


class _Worker:
    """What a process has at hand: the maker of records and what lies in the work folder."""

    def __init__(self, settings: PretrainingData, work: pathlib.Path) -> None:
        self.maker = record_maker(settings)
        self.work = work

    @functools.cached_property
    def corpus(self) -> Corpus:
        """The text; there after the first step."""
        return Corpus(self.work / "corpus")

    @functools.cached_property
    def plan(self) -> InstancePlan:
        """The instances; there after the second step."""
        return InstancePlan(self.work / "plan")


class _Run:
    """One run, from the text to the manifest."""

    def __init__(
        self,
        settings: PretrainingData,
        inputs: Sequence[pathlib.Path],
        maker: RecordMaker,
        outputs: Sequence[pathlib.Path],
        work: pathlib.Path,
    ) -> None:
        self._settings = settings
        self._inputs = inputs
        self._maker = maker
        self._outputs = outputs
        self._work = work

    def __call__(self) -> dict[str, Any]:
        settings = self._settings
        num_workers = settings.num_workers or num_cores()
        with WorkerPool(num_workers, _Worker, (settings, self._work)) as pool:
            self._tokenize(pool)
            corpus = Corpus(self._work / "corpus")
            health = corpus_health.examine(corpus, self._maker.rule.max_num_tokens)
            for warning in corpus_health.warnings(health):
                log.warning("warning: %s", warning)
            if not corpus.num_documents:
                shutil.rmtree(self._work / "corpus")  # it is nothing to go on from
                raise no_text(settings, health)
            self._plan(pool, corpus)
            shards = self._write(pool)
        statistics = Statistics.zero(settings.max_seq_length)
        for shard in shards:
            statistics += shard.statistics()
        inputs = {str(path): path.stat().st_size for path in self._inputs}
        described = [shard.described() for shard in shards]
        manifest = manifest_of(settings, inputs, health, described, statistics)
        # Through the work folder, so that nothing is left beside the files if this is cut off.
        write_json(self._work / "manifest.json", manifest)
        (self._work / "manifest.json").replace(manifest_path(self._outputs[0]))
        return manifest

    def _tokenize(self, pool: WorkerPool) -> None:
        target = self._work / "corpus"
        if target.exists():
            return
        texts = [self._plain(i, path) for i, path in enumerate(self._inputs)]
        sections = sections_of(texts, [str(path) for path in self._inputs])
        for _ in pool.map(_tokenize_section, sections, "tokenizing"):
            pass
        join_sections(
            sections, len(self._maker.tokenizer.vocabulary), self._work / "sections", target
        )
        shutil.rmtree(self._work / "texts", ignore_errors=True)

    def _plain(self, index: int, path: pathlib.Path) -> pathlib.Path:
        """The file itself, or its content if it is compressed, which cannot be cut in sections."""
        if not is_gzip(path):
            return path
        target = self._work / "texts" / f"{index:08}"
        target.parent.mkdir(exist_ok=True)
        with open_bytes(path) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file)
        return target

    def _plan(self, pool: WorkerPool, corpus: Corpus) -> None:
        target = self._work / "plan"
        if target.exists():
            return
        borders = [section["first_document"] for section in corpus.sections]
        borders.append(corpus.num_documents)
        sections = list(itertools.pairwise(borders))
        size = -(-len(sections) // _PLANNED_PARTS)
        tasks = [
            (self._work / f"planned-{i:08}", sections[i : i + size])
            for i in range(0, len(sections), size)
        ]
        join_runs(list(pool.map(_plan_sections, tasks, "planning")), target)

    def _write(self, pool: WorkerPool) -> list[Shard]:
        plan = InstancePlan(self._work / "plan")
        num_parts = max(1, round(len(plan) / len(self._outputs) / _PART))
        shards = [
            Shard(
                path, _shard_folder(self._work, i), num_parts, compresses(self._settings, path.name)
            )
            for i, path in enumerate(self._outputs)
        ]
        tasks = []
        for shard, borders in zip(
            shards, itertools.pairwise(plan.bounds(len(shards))), strict=True
        ):
            if shard.is_done():
                log.info("%s is finished already", shard.path)
                continue
            # An older run's, so that what is there is never a mixture of two runs.
            shard.path.unlink(missing_ok=True)
            # Places are random, so equal shares of them have nearly the same number of instances.
            cuts = [
                borders[0] + (borders[1] - borders[0]) * i // num_parts for i in range(num_parts)
            ]
            cuts.append(borders[1])
            tasks += [
                (part, *cut)
                for part, cut in zip(shard.parts(), itertools.pairwise(cuts), strict=True)
            ]
        manifest_path(self._outputs[0]).unlink(missing_ok=True)  # of files that are now replaced
        waiting = {shard.path: shard.num_parts for shard in shards}
        by_path = {shard.path: shard for shard in shards}
        for task, _ in zip(tasks, pool.map(_make_part, tasks, "writing"), strict=True):
            path = task[0].shard
            waiting[path] -= 1
            if not waiting[path]:
                by_path[path].join()
        return shards


def _tokenize_section(worker: _Worker, section: Section) -> None:
    tokenize_section(section, worker.maker.tokenizer, worker.work / "sections")


def _plan_sections(
    worker: _Worker, task: tuple[pathlib.Path, list[tuple[int, int]]]
) -> tuple[pathlib.Path, list[int]]:
    path, sections = task
    corpus, rule = worker.corpus, worker.maker.rule

    def planned() -> Iterator[np.ndarray]:
        for first_document, end_document in sections:
            for instances in plan_instances(corpus, first_document, end_document, rule):
                yield instances
                corpus.release()

    return path, write_runs(planned(), path)


def _make_part(worker: _Worker, task: tuple[ShardPart, int, int]) -> Statistics:
    part, start, end = task
    if part.is_done():
        return part.statistics()
    planned = worker.plan.select(start, end)
    made = []
    for first in range(0, max(len(planned), 1), _AT_ONCE):  # of no instance, one empty part
        made.append(worker.maker.make(worker.corpus, planned[first : first + _AT_ONCE]))
        worker.corpus.release()
    instances = Instances.joined(made)
    records, statistics = worker.maker.encode(instances, mask_keys(planned, worker.maker.rule))
    part.write(frame_records(*records), statistics)
    return statistics
