"""Takes a tensor of strings, returns ragged ids and offsets, in the graph; next: packing.

The table of `code_points` and the vocabulary of `tokenization`, as a `tf.Module` of core
TensorFlow operations alone: no custom op library, no lookup table to initialise, so that it loads
wherever a SavedModel does. All constants are captured once and shared by all its functions.

Axes: B texts, N code points of all texts, E characters after lower-casing and decomposition, K of
them that belong to words, W words, A words that are still being matched, P pieces.
"""

import os

import numpy as np
import tensorflow as tf

from bert_tf import code_points
from bert_tf.tokenization import CONTINUATION, MAX_WORD_LENGTH, Vocabulary

# An entry of the table, per code point: what it becomes (21 bits; its first character) ...
_CHAR = 0x1FFFFF
_VANISHES = 0
_SPACE = ord(" ")
_UNCHANGED = _CHAR  # so that the pages of unchanged code points are equal, and stored once
# ... and the properties that the rules look at.
_ISOLATED = 1 << 21
_STRIPPED = 1 << 22
_STRIPPED_STARTER = 1 << 23
_CASED = 1 << 24
_SKIPPED = 1 << 25  # by the final-sigma rule: removed or case-ignorable
_VISIBLE_MARK = 1 << 26
_SPECIAL = 1 << 27  # more than one entry is needed: a sigma, a mark, several characters

_CAPITAL_SIGMA, _FINAL_SIGMA = ord("Σ"), ord("ς")


def _table_entries(table: code_points.CodePoints, do_lower_case: bool) -> np.ndarray:
    """The table for one casing in the layout above: int32 [num_pages, PAGE_SIZE]."""
    bits = table.properties.astype(np.int32)

    def has(properties: int) -> np.ndarray:
        return (bits & properties) != 0

    chars = np.full(bits.shape, _UNCHANGED, np.int32)
    if do_lower_case:
        chars = np.where(
            table.replacement_rows > 0, table.replacements[table.replacement_rows, 0], chars
        )
        chars[has(code_points.STRIPPED)] = _VANISHES
    chars[has(code_points.WHITE_SPACE)] = _SPACE
    chars[has(code_points.DROPPED)] = _VANISHES
    if not do_lower_case:
        return chars | _ISOLATED * has(code_points.ISOLATED).astype(np.int32)
    entries = chars
    num_chars = (table.replacements > 0).sum(-1)[table.replacement_rows]
    special = has(code_points.VISIBLE_MARK) | (num_chars > 1) | (chars == ord("σ"))
    for flag, condition in (
        (_ISOLATED, has(code_points.ISOLATED_LOWER)),
        (_STRIPPED, has(code_points.STRIPPED)),
        (_STRIPPED_STARTER, has(code_points.STRIPPED_STARTER)),
        (_CASED, has(code_points.CASED)),
        (_SKIPPED, has(code_points.DROPPED | code_points.CASE_IGNORABLE)),
        (_VISIBLE_MARK, has(code_points.VISIBLE_MARK)),
        (_SPECIAL, special),
    ):
        entries = entries | flag * condition.astype(np.int32)
    return entries


class _Trie:
    """The vocabulary as an automaton for greedy longest match in one pass, as flat arrays.

    The linear-time matching of Song et al. 2021 (arXiv 2012.15524, algorithms 1 and 2): where a
    node has no child for the next character, its pops are the pieces that the greedy match is by
    then sure of, and its failure link is the node that stands for the characters left over. A
    word is matched if it ends in CONTINUATION_ROOT. Children are found in a double array: the
    child of `node` by the character with code `code` is the slot `base[node] + code` if that
    slot's `parent` is `node`.

    Attributes (S slots; slot 0 is no node):
      base, parent, failure, depth: int32 [S]; a failure link of 0 is none; depth in characters.
      pops: int32 [num_pops], pop_splits: int64 [S + 1]: node n's are those from pop_splits[n] to
        pop_splits[n + 1]. Slot UNKNOWN, which is no node either, pops [UNK].
      code_pages: int32 [0x1100], codes: int32 [num_pages * PAGE_SIZE]: code point c has the code
        codes[code_pages[c >> 8] + (c & 255)]; 0 if no piece has it.
    """

    ROOT = 1
    CONTINUATION_ROOT = 2
    UNKNOWN = 3

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._children: list[dict[int, int]] = [{}, {}, {}, {}]
        self._piece_ids: dict[int, int] = {}
        self._encode_alphabet(vocabulary)
        for piece_id, piece in enumerate(vocabulary.pieces):
            self._insert(piece, piece_id)
        failure, pops, depth = self._link()
        pops[self.UNKNOWN] = (vocabulary.unk_id,)
        slots = self._pack()
        num_slots = len(self.base)
        self.failure = np.zeros([num_slots], np.int32)
        self.failure[slots] = slots[failure]
        self.depth = np.zeros([num_slots], np.int32)
        self.depth[slots] = depth
        num_pops = np.zeros([num_slots], np.int64)
        num_pops[slots] = [len(of_node) for of_node in pops]
        self.pop_splits = np.concatenate([[0], np.cumsum(num_pops)])
        in_order = sorted(zip(slots.tolist(), pops, strict=True))
        self.pops = np.array([piece for _, of_node in in_order for piece in of_node], np.int32)

    def _encode_alphabet(self, vocabulary: Vocabulary) -> None:
        """Gives frequent characters small codes, which packs the double array densely."""
        chars, counts = np.unique(
            np.array([ord(char) for piece in vocabulary.pieces for char in piece]),
            return_counts=True,
        )
        by_count = chars[np.argsort(-counts, kind="stable")]
        codes = np.zeros([code_points.COUNT], np.int32)
        codes[by_count] = np.arange(1, len(by_count) + 1)
        self._codes = dict(zip(by_count.tolist(), range(1, len(by_count) + 1), strict=True))
        self.code_pages, self.codes = code_points.in_pages(codes)

    def _insert(self, piece: str, piece_id: int) -> None:
        node = self.ROOT
        if piece.startswith(CONTINUATION):
            node, piece = self.CONTINUATION_ROOT, piece.removeprefix(CONTINUATION)
        for char in piece:
            code = self._codes[ord(char)]
            if code not in self._children[node]:
                self._children[node][code] = len(self._children)
                self._children.append({})
            node = self._children[node][code]
        if piece:
            self._piece_ids[node] = piece_id

    def _link(self) -> tuple[list[int], list[tuple[int, ...]], list[int]]:
        """Failure links, pops and depths of all nodes, breadth first."""
        failure = [0] * len(self._children)
        pops: list[tuple[int, ...]] = [()] * len(self._children)
        depth = [0] * len(self._children)
        queue = [self.ROOT, self.CONTINUATION_ROOT]
        for node in queue:
            for code, child in self._children[node].items():
                queue.append(child)
                depth[child] = depth[node] + 1
                if child in self._piece_ids:
                    failure[child] = self.CONTINUATION_ROOT
                    pops[child] = (self._piece_ids[child],)
                    continue
                left_over, popped = failure[node], pops[node]
                while left_over and code not in self._children[left_over]:
                    popped += pops[left_over]
                    left_over = failure[left_over]
                if left_over:
                    failure[child] = self._children[left_over][code]
                    pops[child] = popped
        return failure, pops, depth

    def _pack(self) -> np.ndarray:
        """Lays the children of all nodes into the double array; returns each node's slot."""
        num_codes = len(self._codes) + 1
        num_nodes = len(self._children)
        window = 1024
        used = np.zeros([window + 2 * (num_nodes + num_codes)], bool)
        used[: self.UNKNOWN + 1] = True
        slots = np.arange(num_nodes)
        bases = np.zeros([num_nodes], np.int64)
        parents = [node for node, children in enumerate(self._children) if len(children) > 1]
        parents.sort(key=lambda node: -len(self._children[node]))
        first = num_codes  # so that no base is negative
        for node in parents:
            codes = np.fromiter(self._children[node], np.int64)
            start = first
            while True:
                if start + window + num_codes > len(used):
                    used = np.concatenate([used, np.zeros_like(used)])
                free = start + np.flatnonzero(~used[start : start + window])
                candidates = free - codes[0]
                fits = ~used[candidates[:, None] + codes].any(1)
                if fits.any():
                    break
                start += window
            bases[node] = candidates[fits.argmax()]
            used[bases[node] + codes] = True
            if len(free) < window // 32:
                first += window
        # An only child fits anywhere.
        parents_of_one = [
            node for node, children in enumerate(self._children) if len(children) == 1
        ]
        codes = np.array(
            [code for node in parents_of_one for code in self._children[node]], np.int64
        )
        free = first + np.flatnonzero(~used[first:])[: len(parents_of_one)]
        bases[parents_of_one] = free - codes
        for node, children in enumerate(self._children):
            for code, child in children.items():
                slots[child] = bases[node] + code
        num_slots = int(bases.max()) + num_codes
        self.base = np.zeros([num_slots], np.int32)
        self.base[slots] = bases
        self.parent = np.full([num_slots], -1, np.int32)
        for node, children in enumerate(self._children):
            for child in children.values():
                self.parent[slots[child]] = slots[node]
        return slots


class GraphTokenizer(tf.Module):
    """Text -> ids of word pieces in the graph, equal to `FullTokenizer` on every text.

    Works eagerly, in `tf.function`, in `tf.data` (give it batches: it works on all texts of a
    batch at once) and in a SavedModel. Bytes that are not UTF-8 are ignored.
    """

    def __init__(
        self, vocab_file: str | os.PathLike[str] | Vocabulary, do_lower_case: bool = True
    ) -> None:
        """Reads the vocabulary, unless it is given as one that was already read."""
        super().__init__(name="graph_tokenizer")
        self.vocabulary: Vocabulary = (
            vocab_file if isinstance(vocab_file, Vocabulary) else Vocabulary(vocab_file)
        )
        self.do_lower_case = do_lower_case
        table = code_points.code_points()
        trie = _Trie(self.vocabulary)
        lengths = [len(piece.removeprefix(CONTINUATION)) for piece in self.vocabulary.pieces]
        # A node's pops cover the characters that its failure link leaves over.
        covered = np.where(trie.failure > 0, trie.depth - trie.depth[trie.failure], 0)
        with tf.device("CPU:0"), tf.init_scope():
            self._page_starts = tf.constant(
                table.page_numbers.astype(np.int32) * code_points.PAGE_SIZE
            )
            self._entries = tf.constant(_table_entries(table, do_lower_case).reshape([-1]))
            self._replacement_rows = tf.constant(table.replacement_rows.reshape([-1]))
            self._replacements = tf.constant(table.replacements)
            self._marks = tf.constant(table.marks)
            self._mark_classes = tf.constant(table.mark_classes)
            self._code_pages = tf.constant(trie.code_pages)
            self._codes = tf.constant(trie.codes)
            self._base = tf.constant(trie.base)
            self._parent = tf.constant(trie.parent)
            self._failure = tf.constant(trie.failure)
            self._depth = tf.constant(trie.depth)
            self._covered = tf.constant(covered)
            self._pops = tf.constant(trie.pops)
            self._pop_splits = tf.constant(trie.pop_splits)
            self._lengths = tf.constant(np.array(lengths, np.int32))
        # Not decorators: those hold the tokenizer weakly, and `dataset.map(GraphTokenizer(...)
        # .tokenize)` would lose it.
        as_graph = tf.function(
            input_signature=[tf.TensorSpec([None], tf.string, name="strings")], autograph=False
        )
        self.tokenize = as_graph(self.tokenize)  # type: ignore[method-assign]
        self.tokenize_with_offsets = as_graph(  # type: ignore[method-assign]
            self.tokenize_with_offsets
        )

    def tokenize(self, strings: tf.Tensor) -> tf.RaggedTensor:
        """The ids of the word pieces of each text.

        Args:
          strings: string [batch].

        Returns:
          int32 [batch, (pieces)].
        """
        with tf.device("CPU:0"):
            return self._tokenize(strings)[0]

    def tokenize_with_offsets(
        self, strings: tf.Tensor
    ) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
        """The word pieces of each text and their places, as `FullTokenizer` counts them.

        Args:
          strings: string [batch].

        Returns:
          ids, starts, ends: each int32 [batch, (pieces)]; the places are in characters of the
            text without the bytes that are ignored.
        """
        with tf.device("CPU:0"):
            return self._tokenize(strings)

    def _tokenize(
        self, strings: tf.Tensor
    ) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
        decoded = tf.strings.unicode_decode(strings, "UTF-8", errors="ignore")
        points = decoded.flat_values  # [N]
        texts = tf.cast(decoded.value_rowids(), tf.int32)  # [N], the text of each code point
        places = places_in_pages(self._page_starts, points)  # [N], in the table
        entries = tf.gather(self._entries, places)  # [N]

        chars = entries & _CHAR
        chars = tf.where(chars == _UNCHANGED, points, chars)  # [N]
        sources = tf.range(tf.size(points))  # [E], the code point each character comes from
        chars, sources = tf.cond(
            tf.reduce_any(entries >= _SPECIAL),
            lambda: self._apply_special_rules(chars, points, texts, places, entries),
            lambda: (chars, sources),
        )

        isolated = tf.cast(tf.gather(entries, sources) & _ISOLATED != 0, tf.int32)  # [E]
        is_space = tf.cast(chars == _SPACE, tf.int32)
        # A number that changes where a word ends, between characters that are left: [E].
        breaks = tf.cumsum(is_space + isolated + shift_right(isolated, 0))
        breaks += tf.gather(texts, sources)
        left = tf.reshape(tf.where((chars != _VANISHES) & (chars != _SPACE)), [-1])  # [K]
        chars, breaks, sources = (tf.gather(x, left) for x in (chars, breaks, sources))

        piece_ids, piece_starts, piece_texts = self._match_words(
            chars, breaks != shift_right(breaks, -1), tf.gather(texts, sources)
        )
        num_texts = tf.size(strings)
        ids = tf.RaggedTensor.from_row_splits(
            piece_ids,
            tf.searchsorted(piece_texts, tf.range(num_texts + 1), out_type=tf.int64),
            validate=False,
        )

        # Every character that is left belongs to one piece, [K].
        num_pieces = tf.size(piece_ids)
        of_piece = tf.cumsum(_mark(piece_starts, tf.size(chars))) - 1
        source_ends = tf.gather(self._source_ends(entries, texts, num_texts), sources)
        origins = tf.gather(tf.cast(decoded.row_starts(), tf.int32), piece_texts)  # [P]
        starts = tf.math.unsorted_segment_min(sources, of_piece, num_pieces) - origins
        ends = tf.math.unsorted_segment_max(source_ends, of_piece, num_pieces) - origins
        return ids, ids.with_flat_values(starts), ids.with_flat_values(ends)

    def _apply_special_rules(
        self,
        chars: tf.Tensor,
        points: tf.Tensor,
        texts: tf.Tensor,
        places: tf.Tensor,
        entries: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """What is not one character for one code point: final sigmas, expansions, marks' order.

        Args:
          chars: int32 [N], the first character of each replacement.
          points: int32 [N], the code points.
          texts: int32 [N], the text of each code point.
          places: int32 [N], its place in the table.
          entries: int32 [N], its entry.

        Returns:
          chars, sources: int32 [E].
        """
        # A sigma is final if, the characters to be skipped aside, the one before it is cased and
        # the one after it is not (`Words._resolve_sigmas`).
        seen = tf.reshape(tf.where(entries & _SKIPPED == 0), [-1])
        cased = tf.gather(entries, seen) & _CASED != 0
        text = tf.gather(texts, seen)
        same_text = text == shift_right(text, -1)
        cased_before = shift_right(cased, False) & same_text
        cased_after = shift_left(cased & same_text, False)
        is_final = (tf.gather(points, seen) == _CAPITAL_SIGMA) & cased_before & ~cased_after
        chars = tf.where(
            _mark(tf.boolean_mask(seen, is_final), tf.size(points)) > 0, _FINAL_SIGMA, chars
        )

        rows = tf.cast(tf.gather(self._replacement_rows, places), tf.int32)
        further = tf.gather(self._replacements[:, 1:], rows)  # [N, 2]
        all_chars = tf.concat([chars[:, None], further], 1)  # [N, 3]
        used = tf.concat([tf.ones_like(chars[:, None], tf.bool), further > 0], 1)
        chars = tf.boolean_mask(all_chars, used)  # [E]
        sources = tf.cast(tf.where(used)[:, 0], tf.int32)  # [E]

        def sort_marks() -> tuple[tf.Tensor, tf.Tensor]:
            # As in `Words._expand`: within a run of marks, by combining class, else in order.
            is_mark = chars[:, None] == self._marks  # [E, num_marks]
            classes = tf.reduce_sum(tf.where(is_mark, self._mark_classes, 0), 1)  # [E]
            ends_run = (chars != _VANISHES) & (classes == 0)
            ends_run |= tf.gather(entries, sources) & _STRIPPED_STARTER != 0
            runs = tf.cumsum(tf.cast(ends_run, tf.int64))
            runs += tf.cast(tf.gather(texts, sources), tf.int64)
            order = tf.argsort(runs * 256 + tf.cast(classes, tf.int64), stable=True)
            return tf.gather(chars, order), tf.gather(sources, order)

        has_marks = tf.reduce_any(entries & _VISIBLE_MARK != 0)
        return tf.cond(has_marks, sort_marks, lambda: (chars, sources))

    def _match_words(
        self, chars: tf.Tensor, begins_word: tf.Tensor, texts: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The greedy longest match of all words at once.

        Args:
          chars: int32 [K].
          begins_word: bool [K].
          texts: int32 [K], the text of each character.

        Returns:
          piece_ids: int32 [P].
          piece_starts: int32 [P], the place in `chars` of each piece's first character.
          piece_texts: int32 [P], the text of each piece.
        """
        num_chars = tf.size(chars)
        words = tf.cumsum(tf.cast(begins_word, tf.int32)) - 1  # [K]
        starts = tf.cast(tf.reshape(tf.where(begins_word), [-1]), tf.int32)  # [W]
        lengths = shift_left(starts, num_chars) - starts
        codes = tf.gather(self._codes, places_in_pages(self._code_pages, chars))  # [K]
        places, nodes = self._walk(
            codes, *(tf.boolean_mask(x, lengths <= MAX_WORD_LENGTH) for x in (starts, lengths))
        )

        # A word of which a part is not covered, for the walk ended there or never began, is [UNK].
        word_of_pop = tf.gather(words, places)
        covered = tf.math.unsorted_segment_sum(
            tf.gather(self._covered, nodes), word_of_pop, tf.size(starts)
        )
        known = covered == lengths  # [W]
        kept = tf.where(tf.gather(known, word_of_pop), nodes, 0)
        unknown = tf.where(known, 0, _Trie.UNKNOWN)
        # Which node pops its pieces at which character, [K]; 0 at most.
        popping = tf.scatter_nd(
            tf.concat([places, starts], 0)[:, None], tf.concat([kept, unknown], 0), [num_chars]
        )
        places = tf.cast(tf.reshape(tf.where(popping > 0), [-1]), tf.int32)
        nodes = tf.gather(popping, places)
        popped = tf.raw_ops.RaggedGather(
            params_nested_splits=[self._pop_splits],
            params_dense_values=self._pops,
            indices=nodes,
            OUTPUT_RAGGED_RANK=1,
        )
        pieces = tf.RaggedTensor.from_row_splits(
            popped.output_dense_values, popped.output_nested_splits[0], validate=False
        )
        # Where a piece begins: where its node began to pop, after that node's earlier pieces.
        before = tf.cumsum(tf.gather(self._lengths, pieces.flat_values), exclusive=True)  # [P]
        of_node = pieces.value_rowids()  # [P]
        since = before - tf.gather(tf.gather(before, pieces.row_starts()), of_node)
        piece_starts = tf.gather(places, of_node) + since
        return pieces.flat_values, piece_starts, tf.gather(texts, piece_starts)

    def _walk(
        self, codes: tf.Tensor, starts: tf.Tensor, lengths: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Walks all words through the trie, each a step in every iteration.

        A step takes a character or a failure link. A word takes no more steps than twice its
        length, whatever the vocabulary.

        Args:
          codes: int32 [K], the characters' codes.
          starts: int32 [A], the place of each word's first character.
          lengths: int32 [A], how many characters it has.

        Returns:
          places, nodes: int32 [number of failure links taken], the nodes whose pops are pieces of
            the text that begins at the places.
        """
        codes = tf.concat([codes, [0]], 0)

        def step(
            iteration: tf.Tensor,
            node: tf.Tensor,
            place: tf.Tensor,
            end: tf.Tensor,
            places: tf.TensorArray,
            nodes: tf.TensorArray,
        ) -> tuple[tf.Tensor, ...]:
            code = tf.where(place < end, tf.gather(codes, place), 0)
            child = tf.gather(self._base, node) + code
            is_child = tf.gather(self._parent, child) == node
            failure = tf.gather(self._failure, node)
            pops = tf.reshape(tf.where(~is_child & (failure > 0)), [-1])
            popping = tf.gather(node, pops)
            places = places.write(
                iteration, tf.gather(place, pops) - tf.gather(self._depth, popping)
            )
            nodes = nodes.write(iteration, popping)
            node = tf.where(is_child, child, failure)
            place += tf.cast(is_child, tf.int32)
            going_on = tf.reshape(tf.where(node > 0), [-1])
            node, place, end = (tf.gather(x, going_on) for x in (node, place, end))
            return iteration + 1, node, place, end, places, nodes

        def new_array() -> tf.TensorArray:
            return tf.TensorArray(
                tf.int32, size=0, dynamic_size=True, infer_shape=False, element_shape=[None]
            )

        *_, places, nodes = tf.while_loop(
            lambda _, node, *__: tf.size(node) > 0,
            step,
            (
                tf.constant(0),
                tf.fill(tf.shape(starts), _Trie.ROOT),
                starts,
                starts + lengths,
                new_array(),
                new_array(),
            ),
        )
        return places.concat(), nodes.concat()

    def _source_ends(self, entries: tf.Tensor, texts: tf.Tensor, num_texts: tf.Tensor) -> tf.Tensor:
        """Where the source of each code point ends: after the marks that were stripped off it.

        Args:
          entries: int32 [N], the entry of each code point.
          texts: int32 [N], its text.
          num_texts: int32 [].

        Returns:
          int32 [N], meaningless where nothing is left of the code point.
        """
        indices = tf.range(tf.size(entries))
        # A number for each base character and what vanishes after it, [N].
        bases = tf.cumsum(tf.cast(entries & _CHAR != _VANISHES, tf.int32)) + texts
        stripped_ends = tf.where(entries & _STRIPPED != 0, indices + 1, 0)
        last = tf.math.unsorted_segment_max(stripped_ends, bases, tf.size(entries) + num_texts)
        return tf.maximum(indices + 1, tf.gather(last, bases))


def places_in_pages(page_starts: tf.Tensor, points: tf.Tensor) -> tf.Tensor:
    """Where the entries of code points are in a table of pages: int32, like `points`."""
    return tf.gather(page_starts, tf.bitwise.right_shift(points, 8)) + (points & 255)


def shift_right(values: tf.Tensor, first: int | bool) -> tf.Tensor:
    """[first, values[0], ..., values[-2]]."""
    return tf.concat([[first], values], 0)[:-1]


def shift_left(values: tf.Tensor, last: int | bool | tf.Tensor) -> tf.Tensor:
    """[values[1], ..., values[-1], last]."""
    return tf.concat([values, [last]], 0)[1:]


def _mark(indices: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Ones at distinct indices, zeros elsewhere: int32 [size]."""
    ones = tf.ones_like(indices, tf.int32)
    return tf.scatter_nd(tf.cast(indices, tf.int32)[:, None], ones, [size])
