"""Pictures of lenses: drawn from what stages write, with the same numbers beside them, whatever the tokens are."""

import math
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.core.study.divergences import DISTANCES
from tasks.reports.study.lens import draw_lens
from tasks.reports.study.trajectory import readable
from tests.reports.study.lenses import TOKENS, cell, curves, distances, lines, trajectory


def size(file: Path) -> tuple[int, int]:
    data = file.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", data[16:24])


def test_one_cell(tmp_path: Path) -> None:
    given = {
        "lens": curves(tmp_path / "lens", 5),
        "distances": distances(tmp_path / "distances", 5, "tuned"),
        "trajectory": trajectory(tmp_path / "trajectory", 5, TOKENS),
    }
    depth, apart, picture = draw_lens([cell("demo", **given)], tmp_path)
    assert [each.name for each in (depth, apart, picture)] == [
        "lens_depth",
        "lens_distances_tuned",
        "lens_trajectory_1_1",
    ]
    for each in (depth, apart, picture):
        assert each.png == tmp_path / f"{each.name}.png"
        assert each.png.read_bytes().startswith(b"\x89PNG")
        assert "model of demo" in each.caption
        assert "n = " in each.caption
        assert "validation" in each.caption
        assert each.private == (each is picture), "its words are those of rows"
    table = lines(depth)
    assert [line["block"] for line in table] == list("01234")
    assert float(table[4]["agreement_tuned"]) == pytest.approx(
        float(torch.rand(5, generator=torch.Generator().manual_seed(len("agreement_tuned")))[4])
    )
    assert len(lines(apart)) == len(DISTANCES) * 25
    assert len(apart.matrices) == len(DISTANCES)
    for line in lines(apart):
        if line["distance"] == "kl":
            values = apart.matrices["KL(row ‖ column)"].values
            assert float(line["value"]) == pytest.approx(values[int(line["row"])][int(line["column"])])
    assert [line["token"] for line in lines(picture)][: len(TOKENS)] == TOKENS
    assert len(lines(picture)) == (5 + 2) * len(TOKENS)
    assert list(picture.matrices) == ["full model", "blocks dropped: uniform"]
    dropped = picture.matrices["blocks dropped: uniform"]
    assert dropped.columns == [readable(token) for token in TOKENS]
    assert [[math.isnan(value) for value in line] for line in dropped.values] == [
        [block not in (0, 4)] * len(TOKENS) for block in range(5)
    ]
    for each in (apart, picture):
        for matrix in each.matrices.values():
            assert matrix.box is not None
            left, first, right, last = matrix.box
            assert 0 < left < right < 1
            assert 0 < last < first < 1, "block 0 is at the bottom"


def test_several_cells_some_of_which_lack_a_part(tmp_path: Path) -> None:
    cells = [
        cell(
            "a",
            lens=curves(tmp_path / "a1", 4),
            distances__tuned=distances(tmp_path / "a2", 4, "tuned"),
            distances__logit=distances(tmp_path / "a3", 4, "logit"),
        ),
        cell("b", distances=distances(tmp_path / "b", 6, "tuned")),
        cell("c", trajectory=trajectory(tmp_path / "c", 3, [" a"] * 20, num_rows=5)),
        cell("d"),
    ]
    drawn = {each.name: each for each in draw_lens(cells, tmp_path)}
    assert list(drawn) == [
        "lens_depth",
        "lens_distances_tuned",
        "lens_distances_logit",
        *(f"lens_trajectory_1_{number}" for number in (1, 2, 3)),
    ]
    tuned = drawn["lens_distances_tuned"]
    assert {line["cell"] for line in lines(tuned)} == {"a · tuned", "b"}
    assert len(tuned.matrices) == 2 * len(DISTANCES)
    assert len(tuned.matrices["b: Hellinger"].values) == 6
    assert draw_lens([cells[3]], tmp_path) == []


def test_more_models_than_fit_into_one_figure(tmp_path: Path) -> None:
    cells = [cell(str(at), distances=distances(tmp_path / str(at), 3, "logit")) for at in range(5)]
    first, second = draw_lens(cells, tmp_path)
    assert (first.name, second.name) == ("lens_distances_logit", "lens_distances_logit_2")
    assert {line["cell"] for line in lines(first)} == set("0123")
    assert next(iter(second.matrices)) == "KL(row ‖ column)"


def test_models_lie_beside_one_another(tmp_path: Path) -> None:
    """Of sixteen positions the picture has the last ones that fit, and the table all."""
    tokens = [f" w{number}" for number in range(16)]
    for variants in (["a", "b"], ["a"], list("abcdefgh")):
        out = tmp_path / str(len(variants))
        given = trajectory(out / "in", 4, tokens, dropped=variants)
        [picture] = draw_lens([cell("demo", trajectory=given)], out)
        assert len({line["position"] for line in lines(picture)}) == 16
        boxes = [matrix.box for matrix in picture.matrices.values()]
        [shown] = {tuple(matrix.columns) for matrix in picture.matrices.values()}
        assert shown == tuple(token.strip() for token in tokens)[-len(shown) :]
        assert 6 <= len(shown) <= 16
        assert f"n = {len(shown)} positions (its last ones; the table has 16)" in picture.caption
        tops = {round(box[1], 2) for box in boxes if box}
        assert len(tops) == (1 if len(variants) < 4 else 3), "beside one another; nine models in lines of three"
        assert size(picture.png)[0] <= 13.2 * 130


def test_letters_of_a_bar_stand_within_the_picture_and_not_beside_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, Any] = {}
    for name in ("lens", "trajectory"):
        monkeypatch.setattr(f"tasks.reports.study.{name}.save", lambda figure, path: made.update({path.stem: figure}))
    analyses = {
        "distances": distances(tmp_path / "a", 5, "tuned"),
        "trajectory": trajectory(tmp_path / "b", 5, TOKENS),
    }
    draw_lens([cell("demo", **analyses)], tmp_path)
    titles = [axes.get_title(loc="left") for axes in made["lens_distances_tuned"].axes[: len(DISTANCES)]]
    assert "Jensen-Shannon divergence, nats" in titles
    assert not any(axes.get_ylabel() for axes in made["lens_distances_tuned"].axes[len(DISTANCES) :])
    figure = made["lens_trajectory_1_1"]
    figure.draw_without_rendering()
    bar = figure.axes[-1]
    assert bar.yaxis.label.get_window_extent().height <= bar.get_window_extent().height


def test_tokens_as_a_picture_can_show_them() -> None:
    assert [readable(token) for token in TOKENS] == ["the", "$x^2", "⏎", "□□", "\ufffd", "consid…"]
    assert (readable("  "), readable("\x00"), readable("")) == ("␣␣", "□", "")
