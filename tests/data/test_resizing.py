import torch

from tag2mask.data.resizing import resize_scores, to_grid


def test_resizing_keeps_cells_where_they_tile_the_image() -> None:
    scores = torch.tensor([[[[0.0, 4.0]]]])
    # Centres of 4 pixels lie at 1/8, 3/8, 5/8, 7/8 of the width, those of the 2 cells at 1/4 and 3/4.
    assert resize_scores(scores, (1, 4)).flatten().tolist() == [0.0, 1.0, 3.0, 4.0]
    assert torch.equal(resize_scores(scores, (1, 2)), scores)
    assert resize_scores(torch.ones(2, 3, 4, 5), (7, 9)).shape == (2, 3, 7, 9)


def test_a_coarser_grid_averages_and_a_finer_one_interpolates() -> None:
    features = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert to_grid(features, (2, 2)).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert torch.equal(to_grid(features, (4, 4)), features)
    assert torch.equal(to_grid(features, (8, 8)), resize_scores(features, (8, 8)))
