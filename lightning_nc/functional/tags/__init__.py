"""Several labels per row: where features of several tags stand, and where the loss would have them."""

from lightning_nc.functional.tags.angles import pair_angles as pair_angles
from lightning_nc.functional.tags.angles import tag_angle as tag_angle
from lightning_nc.functional.tags.angles import tag_angle_ratio as tag_angle_ratio
from lightning_nc.functional.tags.angles import unmatched_angle as unmatched_angle
from lightning_nc.functional.tags.measured import scale_2_predicted as scale_2_predicted
from lightning_nc.functional.tags.pairs import SeenPairs as SeenPairs
from lightning_nc.functional.tags.pairs import seen_pairs as seen_pairs
from lightning_nc.functional.tags.pick_all_labels import PickAllLabelOptimum as PickAllLabelOptimum
from lightning_nc.functional.tags.pick_all_labels import pick_all_label_margin as pick_all_label_margin
from lightning_nc.functional.tags.pick_all_labels import (
    pick_all_label_optimum as pick_all_label_optimum,
)
from lightning_nc.functional.tags.pick_all_labels import pick_all_label_scales as pick_all_label_scales
from lightning_nc.functional.tags.scale import pair_residual as pair_residual
from lightning_nc.functional.tags.scale import pair_scale as pair_scale
from lightning_nc.functional.tags.scale import tag_residual as tag_residual
from lightning_nc.functional.tags.scale import tag_scale as tag_scale
