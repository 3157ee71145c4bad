from pathlib import Path

import numpy as np
from PIL import Image

from petlas.search.attention import Attention
from petlas.search.reports.attention import write_attention


def test_rows_are_the_backbone_and_the_design_and_many_heads_are_cut_off(tmp_path: Path) -> None:
    flat, spot = np.full((4, 4), 1 / 16, np.float32), np.eye(4, dtype=np.float32)
    for heads in (2, 20):
        many = {"backbone": np.stack([flat] * heads), "design": np.stack([spot] * heads)}
        found = Attention("a$b.png", 3, {"backbone": flat, "design": spot}, many, np.ones((8, 8, 3), np.float32))
        write_attention(found, tmp_path / f"{heads}.png")
    with Image.open(tmp_path / "2.png") as few, Image.open(tmp_path / "20.png") as more:
        assert more.width < 4 * few.width
        above, below = (np.asarray(few.crop((0, y, few.width, y + few.height // 2))) for y in (0, few.height // 2))
        assert len(np.unique(below)) > len(np.unique(above)) / 2
