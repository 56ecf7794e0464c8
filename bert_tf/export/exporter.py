"""Takes a model's folder, returns a version that TF Serving runs; next: cli.

One module per task says what its functions are; here is what they have in common.
"""

import logging
import pathlib
from collections.abc import Callable

from bert_tf import run_folder
from bert_tf.config import ModelFiles
from bert_tf.export import answers, choices, labels, masks, tags, vectors
from bert_tf.export.model_card import write_model_card
from bert_tf.export.other_runtimes import convert, write_report
from bert_tf.export.saved_model import new_version, write_saved_model
from bert_tf.export.served_model import EXTRA, ServedModel
from bert_tf.tasks.model_task import check_options, task_of
from bert_tf.use_config import Export

log = logging.getLogger(__name__)

BATCHING = "batching_parameters.txt"

# Each takes a folder or a ModelFiles and the settings, and the task's own options by keyword.
EXPORTERS: dict[str, Callable[..., ServedModel]] = {
    "classification": labels.served,
    "tagging": tags.served,
    "multiple_choice": choices.served,
    "question_answering": answers.served,
    "fill_mask": masks.served,
    "features": vectors.served,
}

# How a server that is started with --enable_batching puts requests together. What it says of shapes
# is what MergeInputTensors of TF Serving's batching_session.cc does.
_BATCHING_PARAMETERS = """# A request may have this many examples; one that has more is refused.
# Requests come together whose inputs differ in the first axis alone, as those of texts do. Where
# some have more choices than others, or longer rows (signature tokens), those that come together
# are refused: give all the same shape, or start the server without --enable_batching. Do not set
# pad_variable_length_inputs: it fills up with copies of the first element, which are not padding.
max_batch_size { value: 32 }
batch_timeout_micros { value: 2000 }
max_enqueued_batches { value: 100 }
num_batch_threads { value: 2 }
"""


def export(settings: Export) -> pathlib.Path:
    """Exports a model.

    Args:
        settings: of the export.

    Returns:
        The version's folder, ``export_dir/version``.

    Raises:
        InputError: if the folder holds no such model, or the version cannot be written. There is
            no folder of the version then.
    """
    given = settings.model()
    model = given if isinstance(given, ModelFiles) else pathlib.Path(given)
    name = task_of(model, settings.task, EXPORTERS)
    options = settings.options()
    check_options(name, EXPORTERS[name], options)
    export_dir = pathlib.Path(settings.export_dir or "")
    with new_version(export_dir, settings.version) as (folder, version):
        served = EXPORTERS[name](model, settings, **options)
        log.info("writing version %d of a model for %s", version, name)
        extra = folder
        if settings.runtime == "tensorflow":
            extra = folder / EXTRA
            traced = write_saved_model(served, folder, batch_size=settings.batch_size)
            if settings.batch_size is None:
                run_folder.write_text(extra / BATCHING, _BATCHING_PARAMETERS)
        else:
            traced, report = convert(served, settings, folder)
            log.info("%s, %s: %s", settings.runtime, settings.precision, report)
            write_report(report, folder)
        run_folder.write_text(extra / run_folder.BERT_CONFIG, served.config.to_json_string())
        run_folder.write_lines(extra / run_folder.VOCAB, served.vocabulary.pieces)
        for file, content in served.files.items():
            run_folder.write_text(extra / file, content)
        write_model_card(served, settings, model, traced, folder, extra)
    return export_dir / str(version)
