"""The drawn sample: 48x48 grey faces with seven expressions, made by code alone.

A face is a stack of shapes given by signed distances (negative inside), painted back to front with
edges one pixel soft. Identity and expression are two small tables of numbers.

The pictures are the same bytes on every platform and NumPy version: uniform doubles of RandomState,
whose stream is frozen, and then only + - * / sqrt abs min max floor, which IEEE 754 rounds in one
way. No sin, exp, power or normal deviates (libm), no sums or products over an axis (order of
addition), no float32 (promotion rules differ between NumPy generations).
"""

from types import SimpleNamespace

import numpy as np

from src.errors import UserError
from src.names import SIZE

PIXEL = 2 / SIZE  # lengths are in face units: the picture spans -1...1, y points down

# What the muscles do: lengths in face units, then amounts. Faces lie between Neutral and theirs.
POSE = {
    #                     Anger  Disgust     Fear    Happy      Sad Surprise  Neutral
    "brow_raise": (     -0.09,   -0.06,    0.09,    0.02,    0.01,    0.17,       0),
    "brow_inner": (     -0.15,   -0.06,     0.1,       0,    0.16,       0,       0),
    "brow_arch": (       0.02,    0.04,    0.01,    0.06,   -0.01,    0.11,    0.04),
    "brow_pinch": (      0.07,    0.04,    0.07,       0,    0.03,       0,       0),
    "lid_up": (          0.05,   0.035,    0.13,   0.065,    0.05,    0.13,    0.08),
    "lid_low": (         0.05,    0.03,    0.09,   0.025,    0.05,    0.09,    0.05),
    "eye_droop": (      -0.03,       0,       0,       0,    0.06,       0,       0),
    "mouth_width": (     0.22,    0.24,    0.33,    0.35,    0.22,    0.15,    0.25),
    "open_up": (            0,     0.1,    0.08,   -0.01,       0,    0.13,       0),
    "open_low": (           0,       0,    0.15,    0.19,       0,    0.19,       0),
    "corner": (         -0.05,   -0.08,   -0.05,    0.13,   -0.14,       0,       0),
    "teeth_up": (           0,    0.08,    0.06,    0.09,       0,    0.02,       0),
    "teeth_low": (          0,       0,    0.06,       0,       0,       0,       0),
    "mouth_round": (        0,     0.4,     1.3,     0.4,       0,       1,       0),
    "lips": (             0.3,     0.9,     0.5,     0.9,       1,     0.8,       1),
    "frown": (              1,     0.3,     0.4,       0,     0.2,       0,       0),
    "wrinkle": (          0.2,       1,       0,       0,       0,       0,       0),
    "fold": (             0.2,       1,     0.2,       1,     0.3,       0,       0),
    "snarl": (              0,       1,       0,       0,       0,       0,       0),
    "forehead": (           0,       0,       1,       0,     0.3,     0.6,       0),
}  # fmt: skip
EXPRESSIONS = np.array(list(POSE.values())).T  # (7, parameters)

# Who it is and how the picture was taken: each trait is uniform in its range.
TRAITS = {
    "head_width": (0.62, 0.74), "head_height": (0.86, 0.96), "jaw": (0.05, 0.3),
    "eye_gap": (0.27, 0.33), "eye_width": (0.15, 0.19), "eye_level": (-0.16, -0.08),
    "iris": (0.06, 0.075), "iris_tone": (20, 80), "gaze": (-0.03, 0.03),
    "brow_level": (0.2, 0.25), "brow_weight": (0.02, 0.04),
    "nose_length": (0.34, 0.44), "nose_width": (0.08, 0.14), "mouth_level": (0.48, 0.56),
    "lip": (0.03, 0.06), "skin": (130, 230), "hair": (15, 150), "hair_style": (0.4, 4),
    "hairline": (-0.66, -0.5), "parting": (-0.18, 0.18), "glasses": (0, 1), "beard": (0, 1),
    "turn": (-0.06, 0.06), "tilt": (-0.07, 0.07), "shift_x": (-0.06, 0.06),
    "shift_y": (-0.05, 0.05), "scale": (1.0, 1.16), "light": (-0.6, 0.6), "contrast": (0.85, 1.1),
    "noise": (1, 6), "behind": (30, 230), "shade": (-40, 40), "clothes": (20, 220), "side": (-1, 1),
}  # fmt: skip


def ellipse(x, y, rx, ry):
    """Signed distance, first-order, to the ellipse with these radii around the origin."""
    x, y = x / rx, y / ry
    radius = np.sqrt(x * x + y * y)
    x, y = x / rx, y / ry
    return radius * (radius - 1) / (np.sqrt(x * x + y * y) + 1e-9)


def stroke(x, y, start, end, bend=0.0):
    """Distance to the arc from `start` to `end` ((x, y), start left of end), raised by `bend`."""
    (x0, y0), (x1, y1) = start, end
    u = np.clip((x - x0) / (x1 - x0), 0, 1)
    slope = (y1 - y0 - 4 * bend * (1 - 2 * u)) / (x1 - x0)
    dx = x - x0 - u * (x1 - x0)
    dy = y - y0 - u * (y1 - y0) + 4 * bend * u * (1 - u)
    return np.sqrt(dx * dx + dy * dy / (1 + slope * slope))


def lens(x, y, width, up, low, corner=0.0, roundness=0.0):
    """Signed distance to the area between two arcs that meet at x = +-width: an eye, a mouth."""
    t = np.clip(x / width, -1, 1)
    bulge = (1 - t * t) * (1 - roundness) + roundness * np.sqrt(1 - t * t)
    middle = y + corner * t * t
    slope = t * t * (np.abs(up) + np.abs(low)) / width  # steep near the corners: keep edges soft
    across = np.maximum(-up * bulge - middle, middle - low * bulge) / np.sqrt(1 + slope * slope)
    return np.maximum(across, np.abs(x) - width)


def render(who, pose):
    """One face, float64 (SIZE, SIZE), from its traits and its pose (both namespaces)."""
    grid = (np.arange(SIZE) + 0.5) * PIXEL - 1
    u, v = (grid[None, :] - who.shift_x) / who.scale, (grid[:, None] - who.shift_y) / who.scale
    half = who.tilt * who.tilt  # rotation through the tangent of the half angle: exact arithmetic
    cos, sin = (1 - half) / (1 + half), 2 * who.tilt / (1 + half)
    x, y = u * cos - v * sin, u * sin + v * cos
    canvas = who.behind + who.shade * (u + v)

    def paint(tone, distance, opacity=1.0, soft=1.3 * PIXEL):
        nonlocal canvas
        canvas = canvas + (tone - canvas) * (np.clip(0.5 - distance / soft, 0, 1) * opacity)

    # Head, neck, hair. The jaw narrows the head below the eyes.
    rx, ry, hx = who.head_width, who.head_height, x * (1 + who.jaw * np.maximum(y, 0))
    head = ellipse(hx, y, rx, ry)
    nx, ny = np.clip(hx / rx, -1, 1), np.clip(y / ry, -1, 1)
    facing = np.sqrt(np.maximum(1 - nx * nx - ny * ny, 0))
    skin = who.skin * (0.66 + 0.36 * facing + 0.22 * who.light * nx - 0.1 * ny)
    style = int(who.hair_style)  # 0 bald or shaven, 1 short, 2 full, 3 long
    comb = 7 * (x - who.parting) / (1.4 + np.maximum(y, -1))  # strands spread out from the parting
    strands = np.abs(comb - np.floor(comb) - 0.5) - np.abs(comb * 0.6 - np.floor(comb * 0.6) - 0.5)
    hair = who.hair * (1 + 0.5 * strands) + 20 * (facing + nx * who.light)
    if style == 3:
        paint(hair, np.maximum(ellipse(x, y - 0.3, rx * 1.28, 1.35), -1.1 - y))
    paint(skin * 0.72, np.maximum(np.abs(x) - rx * 0.62, 0.5 - y))
    paint(who.clothes, ellipse(x, y - 1.55, 1.15, 0.6))
    if style >= 2:
        paint(hair, ellipse(x, y + 0.12, rx * 1.14, ry * 1.02))
    ax = np.abs(x)
    if style != 3:
        paint(skin * 0.8, ellipse(ax - rx * 0.99, y - 0.02, 0.09, 0.2))
    paint(skin, head)
    if style > 0:
        edge = who.hairline + 0.9 * (x - who.parting) * (x - who.parting) + 0.15 * strands
        paint(hair, np.maximum(ellipse(x, y + 0.05, rx * 1.06, ry * 1.02), y - edge), 1, 0.06)

    # Features are mirrored about the nose line, which a turned head moves sideways.
    x = x - who.turn
    ax, side = np.abs(x), np.sign(x)
    nose_y, mouth_y, dark = who.eye_level + who.nose_length, who.mouth_level, skin * 0.45
    if who.beard > 0.8:
        beard = np.maximum(head, 0.12 + mouth_y - 0.55 * ax - y)
        paint(hair, np.maximum(beard, -ellipse(x, y - mouth_y, 0.33, 0.2)), 0.75, 0.1)
    if 0.7 < who.beard < 0.9:
        paint(hair, stroke(ax, y, (0, nose_y + 0.1), (0.24, nose_y + 0.16)) - 0.045, 0.8)

    # Eyes: socket shadow, white, iris, glint, lids. A wide-open eye shows white all round.
    ex, ey = ax - who.eye_gap, y - who.eye_level - pose.eye_droop * (ax - who.eye_gap) * 4
    paint(skin * 0.7, ellipse(ex, ey + 0.04, 0.26, 0.17), 0.55, 0.2)
    eye = lens(ex, ey, who.eye_width, pose.lid_up, pose.lid_low, 0.0, 0.5)
    paint(150 + 0.4 * who.skin, eye)
    iris = ellipse(ex - side * who.gaze, ey + 0.015, who.iris, who.iris)
    paint(who.iris_tone, np.maximum(iris, eye))
    paint(245, ellipse(ex - side * (who.gaze + 0.02), ey + 0.04, 0.02, 0.02), 0.7)
    paint(dark, np.abs(eye) - 0.005, 0.5)
    lid = lens(ex, ey, who.eye_width + 0.02, pose.lid_up + 0.02, 0.015 - pose.lid_up, 0.0, 0.5)
    paint(dark * 0.6, lid, 0.9)

    # Brows and the frown between them.
    by = who.eye_level - who.brow_level - pose.brow_raise
    inner = (0.13 - pose.brow_pinch, by - pose.brow_inner)
    outer = (0.5, by + 0.03 + pose.brow_inner / 4)
    weight = who.brow_weight * (1.35 - 0.8 * np.clip(ax / 0.5, 0, 1))
    brow = stroke(ax, y, inner, outer, pose.brow_arch) - weight
    paint(min(who.hair * 0.7, who.skin * 0.45), brow, 0.95)
    paint(dark, stroke(y, ax, (by, 0.05), (by + 0.2, 0.04)) - 0.012, 0.8 * pose.frown)

    # Nose: shadow side, lit ridge, wings, nostrils; then creases.
    wing = who.nose_width + 0.03 * pose.wrinkle
    shadow = stroke(y, -x * np.sign(who.light), (who.eye_level, 0.05), (nose_y, wing * 0.8))
    paint(skin * 0.68, shadow - 0.02, 0.6, 0.08)
    paint(skin * 1.15, stroke(y, x, (who.eye_level, 0), (nose_y - 0.03, 0)) - 0.02, 0.6, 0.08)
    paint(skin * 0.6, np.abs(ellipse(ax - wing, y - nose_y, 0.05, 0.055)) - 0.004, 0.5)
    paint(dark * 0.8, ellipse(ax - wing * 0.6, y - nose_y - 0.035, 0.035, 0.02), 0.9)
    for crease in (0, 0.1):  # two across the forehead, two across the bridge
        brow, bridge = by - 0.12 - crease, who.eye_level + 0.07 + crease
        paint(dark, stroke(ax, y, (0, brow), (0.3, brow + 0.02)) - 0.008, 0.5 * pose.forehead)
        paint(dark, stroke(ax, y, (0, bridge), (0.13, bridge - 0.05)) - 0.01, 0.7 * pose.wrinkle)

    # Cheeks and mouth. A snarl lifts one side of the upper lip.
    snarl = pose.snarl * np.sign(who.side) * x / pose.mouth_width
    paint(skin * 1.12, ellipse(ax - 0.4, y - nose_y + 0.02, 0.14, 0.1), 0.7 * pose.fold, 0.15)
    ends = (wing + 0.04, nose_y - 0.02), (pose.mouth_width + 0.11, mouth_y - 0.02)
    paint(dark, stroke(ax, y, *ends, 0.04) - 0.012, 0.7 * pose.fold)
    my = y - mouth_y + 0.04 * snarl
    up, low = pose.open_up * np.maximum(1 + 0.7 * snarl, 0), pose.open_low
    lip, shape = who.lip * pose.lips, (pose.corner, pose.mouth_round)
    paint(skin * 0.62, lens(x, my, pose.mouth_width + 0.02, up + lip, low + lip * 1.4, *shape))
    ends = (0, 0), (pose.mouth_width, -pose.corner)
    paint(dark * 0.6, stroke(ax, my, *ends, -pose.corner / 4) - 0.014)
    opening = lens(x, my, pose.mouth_width, up, low, *shape)
    gape = min(max((pose.open_up + low) / 0.06, 0), 1)
    paint(25, opening, gape)
    for row in ((up, pose.teeth_up - up), (pose.teeth_low - low, low)):
        teeth = lens(x, my, pose.mouth_width, *row, *shape)
        paint(225, np.maximum(opening, teeth) + 0.01, gape)
    if who.glasses > 0.85:
        rim = np.abs(ellipse(ex, y - who.eye_level, 0.23, 0.19)) - 0.01
        bridge = stroke(ax, y, (0, who.eye_level - 0.03), (0.06, who.eye_level - 0.02)) - 0.012
        paint(35, np.minimum(rim, bridge), 0.9)
    return 128 + (canvas - 128) * who.contrast


def draw(seed, counts):
    """images uint8 (N, 48, 48) and labels uint8 (N,): `counts[k]` faces of class k, shuffled.

    The same seed and counts give the same bytes everywhere; the global generators stay untouched.
    Raises UserError for a seed outside 0...2**32-1 or counts that are not seven integers >= 0.
    """
    whole = all(isinstance(n, (int, np.integer)) and n >= 0 for n in [seed, *counts])
    if not whole or seed >= 2**32 or len(counts) != len(EXPRESSIONS):
        raise UserError(
            "drawn sample: expected a seed in 0...2**32-1 and 7 counts >= 0, one per expression, "
            f"found seed {seed} and counts {counts}; correct them in the settings"
        )
    random = np.random.RandomState(seed)
    labels = np.repeat(np.arange(len(EXPRESSIONS), dtype=np.uint8), counts)
    labels = labels[np.argsort(random.random_sample(len(labels)), kind="stable")]
    images = np.empty((len(labels), SIZE, SIZE), np.uint8)
    for image, label in zip(images, labels):
        values = random.random_sample(len(TRAITS))
        who = {k: lo + v * (hi - lo) for (k, (lo, hi)), v in zip(TRAITS.items(), values.tolist())}
        vigour = 0.85 + 0.2 * random.random_sample() + 0.15 * random.random_sample(len(POSE))
        pose = EXPRESSIONS[-1] + vigour * (EXPRESSIONS[label] - EXPRESSIONS[-1])
        face = render(SimpleNamespace(**who), SimpleNamespace(**dict(zip(POSE, pose.tolist()))))
        one, two = random.random_sample((2, SIZE, SIZE))
        face = face + who["noise"] * (one + two - 1) * 2  # triangular noise, within +-2 * noise
        image[:] = np.floor(np.clip(face, 0, 255) + 0.5)
    return images, labels
