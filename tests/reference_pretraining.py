"""The original's way from text to instances, slow and obvious; what tests compare with.

Each random choice is taken from the bits that bert_tf has for it, one at a time, in plain integers.
"""

import itertools
import random
from types import SimpleNamespace

import numpy as np

from bert_tf.corpus import Corpus, join_sections, sections_of, tokenize_section

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [f"word{number}" for number in range(23)]
CONTINUATIONS = [f"##rest{number}" for number in range(6)]
PIECES = [*SPECIAL, *WORDS, *CONTINUATIONS]
PAD, UNK, CLS, SEP, MASK = range(len(SPECIAL))

ALL_ONES = 2**64 - 1
# What the bits are for.
TARGET_LENGTH, INSTANCE = 1, 2
A_END, IS_RANDOM, B_START, ORDER, MASKS, FRONT_OF_A, FRONT_OF_B, B_DOCUMENT = range(8)


# --- random choices -----------------------------------------------------------------------------


def bits_of(key, number):
    z = (key + number * 0x9E3779B97F4A7C15) & ALL_ONES
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & ALL_ONES
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & ALL_ONES
    return z ^ (z >> 31)


def draw(bits, bound):
    """One of 0 … bound - 1."""
    return ((bits >> 32) * bound) >> 32


def fraction(bits):
    return (bits >> 11) / 2**53


def is_one(key, number):
    """The bit with a number of a key that stands for as many as are wanted, from 0."""
    word = bits_of(key, number // 64 + 1)
    return word >> (63 - number % 64) & 1 == 1


# --- instances ----------------------------------------------------------------------------------


def instance_key(rule, dupe, sentence):
    return bits_of(bits_of(bits_of(bits_of(rule.seed, 1), INSTANCE), dupe), sentence)


def pair_instances(documents, rule):
    """Instances of next_sentence=nsp: of each document, as often as is wanted.

    Args:
        documents: of each, its sentences: lists of ids.
        rule: an InstanceRule.

    Returns:
        Dictionaries of input_ids and segment_ids, without padding, next_sentence_label, num_dropped
        and the keys of the instance's order and masks.
    """
    first_sentences = list(itertools.accumulate(map(len, documents), initial=0))
    return [
        instance
        for dupe in range(rule.dupe_factor)
        for index in range(len(documents))
        for instance in pairs_of_document(documents, index, first_sentences[index], dupe, rule)
    ]


def pairs_of_document(documents, index, first_sentence, dupe, rule):
    max_num_tokens = rule.max_seq_length - 3
    bits = bits_of(bits_of(bits_of(bits_of(rule.seed, 1), TARGET_LENGTH), dupe), index)
    target = max_num_tokens
    if fraction(bits) < rule.short_seq_prob:
        target = 2 + draw(bits_of(bits, 1), max_num_tokens - 1)

    document = documents[index]
    instances = []
    chunk, length, i = [], 0, 0
    while i < len(document):
        chunk.append(document[i])
        length += len(document[i])
        if i == len(document) - 1 or length >= target:
            key = instance_key(rule, dupe, first_sentence + i - len(chunk) + 1)
            a_end = 1
            if len(chunk) >= 2:
                a_end = 1 + draw(bits_of(key, A_END), len(chunk) - 1)
            tokens_a = list(itertools.chain.from_iterable(chunk[:a_end]))
            is_random = len(chunk) == 1 or fraction(bits_of(key, IS_RANDOM)) < 0.5
            if is_random:
                other = documents[random_document(documents, index, key)]
                start = draw(bits_of(key, B_START), len(other))
                tokens_b = []
                for sentence in other[start:]:
                    tokens_b += sentence
                    if len(tokens_b) >= target - len(tokens_a):
                        break
                i -= len(chunk) - a_end  # these are put back
            else:
                tokens_b = list(itertools.chain.from_iterable(chunk[a_end:]))
            untruncated = len(tokens_a) + len(tokens_b)
            truncate_pair(tokens_a, tokens_b, max_num_tokens, key)
            instances.append(
                {
                    "input_ids": [CLS, *tokens_a, SEP, *tokens_b, SEP],
                    "segment_ids": [0] * (len(tokens_a) + 2) + [1] * (len(tokens_b) + 1),
                    "next_sentence_label": int(is_random),
                    "num_dropped": untruncated - len(tokens_a) - len(tokens_b),
                    "order": bits_of(key, ORDER),
                    "mask_key": bits_of(key, MASKS),
                }
            )
            chunk, length = [], 0
        i += 1
    return instances


def random_document(documents, own, key):
    for attempt in range(10):
        index = draw(bits_of(key, B_DOCUMENT + attempt), len(documents))
        if index != own:
            break
    return index


def truncate_pair(tokens_a, tokens_b, max_num_tokens, key):
    dropped_a = dropped_b = 0
    while len(tokens_a) + len(tokens_b) > max_num_tokens:
        if len(tokens_a) > len(tokens_b):
            from_front = is_one(bits_of(key, FRONT_OF_A), dropped_a)
            dropped_a += 1
            tokens = tokens_a
        else:
            from_front = is_one(bits_of(key, FRONT_OF_B), dropped_b)
            dropped_b += 1
            tokens = tokens_b
        del tokens[0 if from_front else -1]


def full_instances(documents, rule, section_ends=None):
    """Instances of next_sentence=none, as ``pair_instances`` gives them.

    Args:
        documents: of each, its sentences: lists of ids.
        rule: an InstanceRule.
        section_ends: behind the last document of each section; by default there is one.
    """
    max_num_tokens = rule.max_seq_length - 2
    sentences = [(tokens, d) for d, document in enumerate(documents) for tokens in document]
    section_of = {}
    for section, (start, end) in enumerate(
        itertools.pairwise([0, *(section_ends or [len(documents)])])
    ):
        section_of |= dict.fromkeys(range(start, end), section)
    instances = []
    for dupe in range(rule.dupe_factor):
        i = 0
        while i < len(sentences):
            first = i
            tokens, document = list(sentences[i][0]), sentences[i][1]
            section = section_of[document]
            i += 1
            while i < len(sentences) and section_of[sentences[i][1]] == section:
                border = [SEP] if sentences[i][1] != document else []
                if len(tokens) + len(border) + len(sentences[i][0]) > max_num_tokens:
                    break
                tokens += border + sentences[i][0]
                document = sentences[i][1]
                i += 1
            key = instance_key(rule, dupe, first)
            kept = tokens[:max_num_tokens]
            instances.append(
                {
                    "input_ids": [CLS, *kept, SEP],
                    "segment_ids": [0] * (len(kept) + 2),
                    "next_sentence_label": 0,
                    "num_dropped": len(tokens) - len(kept),
                    "order": bits_of(key, ORDER),
                    "mask_key": bits_of(key, MASKS),
                }
            )
    return instances


def reference_instances(documents, rule, section_ends=None):
    if rule.next_sentence == "none":
        return full_instances(documents, rule, section_ends)
    return pair_instances(documents, rule)


# --- text ---------------------------------------------------------------------------------------


def documents_of(texts, tokenizer):
    """Documents of ids of files' contents, bytes each: sentences by the line, a file ends one."""
    documents = []
    for text in texts:
        documents.append([])
        for content in text.split(b"\n"):
            line = content.decode("utf-8", "ignore").strip()
            if not line:
                documents.append([])
            tokens = tokenizer.tokenize(line)
            if tokens:
                documents[-1].append(tokenizer.convert_tokens_to_ids(tokens))
    return [document for document in documents if document]


def random_documents(seed, count, most_sentences=7, longest=13):
    """Documents of ids; some have one sentence, and sentences are as short as one piece."""
    generator = random.Random(seed)
    first = len(SPECIAL)
    return [
        [
            [
                generator.randrange(first, first + len(WORDS)),
                *generator.choices(range(first, len(PIECES)), k=generator.randrange(longest)),
            ]
            for _ in range(generator.randint(1, most_sentences))
        ]
        for _ in range(count)
    ]


def text_of(documents):
    """A text whose sentences have the ids of documents."""
    return "\n".join(
        "".join(
            " ".join(PIECES[piece] for piece in sentence).replace(" ##", "") + "\n"
            for sentence in document
        )
        for document in documents
    )


def write_vocabulary(folder, pieces=PIECES):
    path = folder / "vocab.txt"
    path.write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
    return path


def corpus_of(documents):
    """What instances are made from: the arrays of a corpus.Corpus, in memory."""
    sentences = list(itertools.chain.from_iterable(documents))
    sentence_starts = np.array(list(itertools.accumulate(map(len, sentences), initial=0)))
    document_starts = np.array(list(itertools.accumulate(map(len, documents), initial=0)))
    return SimpleNamespace(
        tokens=np.array(list(itertools.chain.from_iterable(sentences)), np.uint16),
        sentence_starts=sentence_starts,
        document_starts=document_starts,
        num_documents=len(documents),
        document_of=lambda s: np.searchsorted(document_starts, s, side="right") - 1,
    )


def corpus_on_disk(folder, texts, tokenizer):
    """The corpus of files with these contents, bytes each, which are called 0.txt, 1.txt, …"""
    paths = []
    for number, text in enumerate(texts):
        paths.append(folder / f"{number}.txt")
        paths[-1].write_bytes(text)
    sections = sections_of(paths, [path.name for path in paths])
    for section in sections:
        tokenize_section(section, tokenizer, folder / "sections")
    join_sections(sections, len(tokenizer.vocabulary), folder / "sections", folder / "corpus")
    return Corpus(folder / "corpus")
