"""Flat rows, token by token."""

import torch

from llm_engineering.models.flat.layout import Segment, flatten_packed, flatten_pairs, flatten_rows

PAD = 0


def batch(*rows):
    size = max(map(len, rows))
    ids = torch.tensor([[*row, *[PAD] * (size - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (size - len(row)) for row in rows])
    return ids, mask


def read_back(flat, rows):
    """Return the padded batch's tokens, found through the index."""
    return [flat.input_ids_N[flat.index_BT[i, : len(row)]].tolist() for i, row in enumerate(rows)]


def test_rows_stand_one_behind_the_other_without_padding():
    rows = ([5, 6, 7], [8], [9, 10])
    flat = flatten_rows(*batch(*rows))
    assert flat.input_ids_N.tolist() == [5, 6, 7, 8, 9, 10]
    assert flat.position_ids_N.tolist() == [0, 1, 2, 0, 0, 1]
    assert flat.segments == (Segment(0, 3), Segment(3, 4), Segment(4, 6))
    assert read_back(flat, rows) == [list(row) for row in rows]
    assert flat.longest == 3


def test_packed_rows_start_where_positions_start_again():
    flat = flatten_packed(torch.tensor([[5, 6, 7, 8, 9]]), torch.tensor([[0, 1, 0, 1, 2]]))
    assert flat.segments == (Segment(0, 2), Segment(2, 5))
    assert flat.index_BT.tolist() == [[0, 1, 2, 3, 4]]


def test_rejected_row_starts_at_its_first_other_token():
    # prompt 5 6, answers 7 8 and 7 9 4: they part at the fourth token
    rows = ([5, 6, 7, 8], [5, 6, 7, 9, 4])
    flat = flatten_pairs(*batch(*rows))
    assert flat.input_ids_N.tolist() == [5, 6, 7, 8, 9, 4]
    assert flat.position_ids_N.tolist() == [0, 1, 2, 3, 3, 4]
    assert flat.segments == (Segment(0, 4), Segment(4, 6, 0, 3))
    assert read_back(flat, rows) == [list(row) for row in rows]
    assert flat.longest == 5


def test_rejected_row_that_the_chosen_one_begins_with_takes_no_room():
    rows = ([5, 6, 7, 8], [5, 6])
    flat = flatten_pairs(*batch(*rows))
    assert flat.input_ids_N.tolist() == [5, 6, 7, 8]
    assert flat.segments == (Segment(0, 4),)
    assert read_back(flat, rows) == [list(row) for row in rows]


def test_chosen_row_that_the_rejected_one_begins_with_is_its_prefix_whole():
    rows = ([5, 6], [5, 6, 7, 8])
    flat = flatten_pairs(*batch(*rows))
    assert flat.segments == (Segment(0, 2), Segment(2, 4, 0, 2))
    assert read_back(flat, rows) == [list(row) for row in rows]


def test_pairs_that_begin_differently_share_nothing():
    rows = ([5, 6, 7], [9, 5, 6], [6, 6], [5, 6, 7, 8])  # chosen, chosen, rejected, rejected
    flat = flatten_pairs(*batch(*rows))
    assert flat.input_ids_N.tolist() == [5, 6, 7, 6, 6, 9, 5, 6, 5, 6, 7, 8]
    assert flat.segments == (Segment(0, 3), Segment(3, 5), Segment(5, 8), Segment(8, 12))
    assert read_back(flat, rows) == [list(row) for row in rows]


def test_padding_is_no_common_token():
    rows = ([PAD, PAD], [PAD])  # a real token may have the padding's id
    assert flatten_pairs(*batch(*rows)).input_ids_N.tolist() == [PAD, PAD]
    rows = ([5], [5, PAD])
    assert flatten_pairs(*batch(*rows)).segments == (Segment(0, 1), Segment(1, 2, 0, 1))


def test_pairs_are_kept_whole_where_nothing_is_shared_on_purpose():
    rows = ([5, 6, 7], [5, 6, 8])
    flat = flatten_pairs(*batch(*rows), share=False)
    assert flat.input_ids_N.tolist() == [5, 6, 7, 5, 6, 8]
    assert flat.segments == (Segment(0, 3), Segment(3, 6))
    assert read_back(flat, rows) == [list(row) for row in rows]
