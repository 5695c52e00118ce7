"""A picture of how a training went."""

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

# Of Okabe and Ito's palette, which people with any colour vision can tell apart.
_COLORS = {"mask": "#000000", "WM": "#0072B2", "GM": "#D55E00", "CSF": "#009E73"}
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 640, 320, 44, 28, 14, 60


def draw_curves(history: Sequence[dict[str, float]]) -> bytes:
    """Draw Dice on images left out against steps: PNG.

    Parameters
    ----------
    history : sequence of dict
        Lines with ``step`` and a Dice for each of ``mask``, ``WM``, ``GM``, ``CSF``.
    """
    picture = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(12)
    last = max((line["step"] for line in history), default=1)

    def place(step: float, value: float) -> tuple[float, float]:
        across = _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / last
        return across, _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * value

    for tenth in range(0, 11, 2):
        pen.line([place(0, tenth / 10), place(last, tenth / 10)], fill="#DDDDDD")
        pen.text((8, place(0, tenth / 10)[1] - 7), f"{tenth / 10:.1f}", fill="black", font=font)
    for quarter in range(5):
        step = last * quarter / 4
        pen.text((place(step, 0)[0] - 14, _HEIGHT - _BOTTOM + 8), f"{step:.0f}", fill="black", font=font)
    pen.text((_WIDTH - _RIGHT + 24, _HEIGHT - _BOTTOM + 8), "steps", fill="black", font=font)
    heights: list[float] = []
    for name, color in _COLORS.items():
        points = [place(line["step"], line[name]) for line in history if name in line]
        if len(points) > 1:
            pen.line(points, fill=color, width=2)
            # Names of lines that end at one place stand below each other.
            height = points[-1][1] - 7
            while any(abs(height - other) < 13 for other in heights):
                height += 1
            heights.append(height)
            pen.text((_WIDTH - _RIGHT + 8, height), name, fill=color, font=font)
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    return content.getvalue()
