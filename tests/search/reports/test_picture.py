from pathlib import Path

import pytest
from matplotlib.figure import Figure

from petlas.search.reports import picture
from petlas.search.reports.picture import PictureError, check_picture, write_picture


def test_what_cannot_be_drawn_or_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PictureError, match=r"got --out a.pdf; take a name that ends in .png"):
        check_picture(Path("a.pdf"))
    check_picture(tmp_path / "a.png")
    write_picture(Figure(), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "file").touch()
    with pytest.raises(PictureError, match="choose another place"):
        write_picture(Figure(), tmp_path / "file/a.png")
    monkeypatch.setattr(picture, "find_spec", lambda name: None)
    with pytest.raises(PictureError, match=r"petlas\[report\]"):
        check_picture(tmp_path / "a.png")
