from pathlib import Path

import pytest

from petlas.datasets.images import SUFFIXES
from petlas.datasets.tree import Tree, is_image


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    for name in ("b/deep/x.PNG", "b/y.jpg", "a/z.webp", ".hidden/w.png", "__pycache__/v.png", "u.png", "notes.md"):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return Tree(tmp_path / "root")


def test_folders_are_in_order_without_hidden_ones_and_those_of_tools(tree: Tree) -> None:
    assert [path.name for path in tree.folders(tree.root)] == ["a", "b"]
    assert tree.folders(tree.root / "gone") == []


def test_images_lie_at_any_depth(tree: Tree) -> None:
    assert {path.name for path in tree.images(tree.root)} == {"x.PNG", "y.jpg", "z.webp", "u.png"}
    assert tree.has_image(tree.root / "b/deep")
    assert tree.has_direct_image(tree.root / "b")
    (tree.root / "b/y.jpg").unlink()
    assert not tree.has_direct_image(tree.root / "b")
    assert tree.has_image(tree.root / "b")


def test_what_is_left_out_is_told_once_however_often_it_is_met(tree: Tree) -> None:
    for _ in range(2):
        tree.folders(tree.root)
        tree.leave_loose(tree.root)
    assert tree.notes() == (
        "left out: 1 hidden (.hidden); 1 made by tools (__pycache__); 1 outside the class folders (u.png); "
        "1 without an image's suffix (notes.md)",
    )


def test_nothing_left_out_is_nothing_told(tree: Tree) -> None:
    assert list(tree.images(tree.root / "b"))
    assert tree.notes() == ()


def test_links_that_lead_back_end(tree: Tree) -> None:
    (tree.root / "a/up").symlink_to("..")
    (tree.root / "a/b").symlink_to("../b")
    (tree.root / "b/a").symlink_to("../a")
    found = sorted(path.relative_to(tree.root).as_posix() for path in tree.images(tree.root / "a"))
    assert found == ["a/b/deep/x.PNG", "a/b/y.jpg", "a/z.webp"]
    assert tree.notes() == ("left out: 2 linked to a folder above (a/b/a, a/up)",)


def test_images_are_told_by_their_suffix() -> None:
    assert all(is_image(f"x{suffix.upper()}") for suffix in SUFFIXES)
    assert not any(map(is_image, ("._x.jpg", ".png", "x.txt", "png", "x.png.txt")))
