"""Which model stands for each object, and where its frame is put: as in the primitive scenes.

Scales are those of the public simulator's tasks. `origin` was measured on the collision pieces: a tool's frame is in the middle of
them, a dish's at its axis on its bottom, the rack's in the middle of its bottom. The caddy and the jewelry box keep the published frame,
in which compartments and drawers are told.
"""

from typing import NamedTuple

import numpy as np


class Model(NamedTuple):
    """An object of the assets folder."""

    file: str  # MJCF, in the assets folder
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)  # m, our frame in the scaled model's
    scale: float | None = 1.0  # of all meshes; None leaves what the file says
    rgb: tuple[float, float, float] = (0.4, 0.4, 0.4)  # of the pieces that are shown where the visual mesh is absent
    turned: bool = False  # our frame is turned by half a turn about z in the model's

    def local(self, points: np.ndarray) -> np.ndarray:
        """Points (n, 3) of the scaled model in our frame, m."""
        return (points - np.array(self.origin)) * ((-1, -1, 1) if self.turned else (1, 1, 1))


_YCB, _GSO = "ycb/{}/google_64k/model.xml", "gso/{}/model.xml"

MODELS = {
    "caddy": Model(_GSO.format("Sterilite_Caddy_Blue_Sky_17_58_x_12_58_x_9_14"), (0.0, 0.0, 0.0), 0.5),
    "can_opener": Model(_GSO.format("Granimals_20_Wooden_ABC_Blocks_Wagon"), (-0.0002, -0.0008, 0.0255), 0.8),  # its mesh is a can opener's
    "screwdriver": Model(_GSO.format("Craftsman_Grip_Screwdriver_Phillips_Cushion"), (0.0001, 0.0052, 0.0195), turned=True),
    "magnifier": Model(_GSO.format("Magnifying_Glassassrt"), (0.0, -0.0017, 0.0086)),
    "thumb_drive": Model(_GSO.format("Kingston_DT4000MR_G2_Management_Ready_USB_64GB"), (-0.0001, -0.0001, 0.0058), 0.9),
    "scissors": Model(_GSO.format("Diamond_Visions_Scissors_Red"), (0.0195, -0.0032, 0.0073)),
    "plate": Model(_YCB.format("029_plate"), (-0.0092, 0.0, -0.0043), 0.8, (0.80, 0.30, 0.24)),
    "bowl": Model(_YCB.format("024_bowl"), (-0.0222, -0.0655, -0.0027), 1.5, (0.86, 0.36, 0.30)),
    "cup": Model(_GSO.format("BIA_Cordon_Bleu_White_Porcelain_Utensil_Holder_900028"), (0.0, 0.0, -0.0009), 0.6),
    "mug": Model(_YCB.format("025_mug"), (-0.0200, 0.0174, -0.0015), 1.0, (0.78, 0.12, 0.12)),
    "pen": Model("edr/pen/model.xml", (-0.0003, 0.0083, 0.0048)),
    "banana": Model(_YCB.format("011_banana"), (0.0114, -0.0073, 0.0181), 1.0, (0.90, 0.78, 0.20)),
    "rack": Model(_GSO.format("Rubbermaid_Large_Drainer"), (-0.0068, 0.0021, -0.0027)),
    "small_plate": Model(_YCB.format("029_plate"), (-0.0081, 0.0, -0.0038), 0.7, (0.80, 0.30, 0.24)),
    "small_bowl": Model(_YCB.format("024_bowl"), (-0.0104, -0.0306, -0.0013), 0.7, (0.86, 0.36, 0.30)),
    "jewelry_box": Model("edr/drawer/model.xml", scale=None),
}
