from tag2mask.data.classes import BACKGROUND, UNLABELLED, voc_palette


def test_the_palette_is_vocs() -> None:
    palette = voc_palette()
    assert palette[BACKGROUND].tolist() == [0, 0, 0]
    assert palette[1].tolist() == [128, 0, 0]  # aeroplane
    assert palette[15].tolist() == [192, 128, 128]  # person
    assert palette[UNLABELLED].tolist() == [224, 224, 192]  # the outline in VOC's masks
    assert len({tuple(colour) for colour in palette.tolist()}) == 256
