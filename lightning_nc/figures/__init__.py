"""Pictures of collapse: from values to a matplotlib Figure, without pyplot and without a display."""

from lightning_nc.figures.alignment import alignment as alignment
from lightning_nc.figures.animation import animate as animate
from lightning_nc.figures.animation import collapse_animation as collapse_animation
from lightning_nc.figures.animation import frame as frame
from lightning_nc.figures.central_path import loss_split as loss_split
from lightning_nc.figures.central_path import signal_to_noise as signal_to_noise
from lightning_nc.figures.classes import class_profile as class_profile
from lightning_nc.figures.cosines import cosine_matrices as cosine_matrices
from lightning_nc.figures.depth import depth_profile as depth_profile
from lightning_nc.figures.depth_map import depth_map as depth_map
from lightning_nc.figures.graphs import DepthCurve as DepthCurve
from lightning_nc.figures.graphs import graph_depth as graph_depth
from lightning_nc.figures.inline import shown as shown
from lightning_nc.figures.lengths import class_lengths as class_lengths
from lightning_nc.figures.plane import collapse_picture as collapse_picture
from lightning_nc.figures.race import race as race
from lightning_nc.figures.regression import regression_spectrum as regression_spectrum
from lightning_nc.figures.sheet import summary as summary
from lightning_nc.figures.spectrum import spectra as spectra
from lightning_nc.figures.table import PICTURES as PICTURES
from lightning_nc.figures.table import Look as Look
from lightning_nc.figures.table import Picture as Picture
from lightning_nc.figures.table import draw as draw
from lightning_nc.figures.table import first_picture as first_picture
from lightning_nc.figures.tags import tag_angles as tag_angles
