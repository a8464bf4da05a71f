"""Frozen values, never aliased: what a stage leaves behind, and nothing that computes a measure."""

from lightning_nc.values.classifier import LinearClassifier as LinearClassifier
from lightning_nc.values.errors import NeuralCollapseWarning as NeuralCollapseWarning
from lightning_nc.values.errors import OutOfStep as OutOfStep
from lightning_nc.values.errors import RankFailed as RankFailed
from lightning_nc.values.errors import UndefinedMeasure as UndefinedMeasure
from lightning_nc.values.evidence import ClassEvidence as ClassEvidence
from lightning_nc.values.evidence import Evidence as Evidence
from lightning_nc.values.frame import Frame as Frame
from lightning_nc.values.history import History as History
from lightning_nc.values.history import Logged as Logged
from lightning_nc.values.key import Key as Key
from lightning_nc.values.outcome import Fate as Fate
from lightning_nc.values.outcome import Outcome as Outcome
from lightning_nc.values.recorded import HEAD as HEAD
from lightning_nc.values.recorded import Recorded as Recorded
from lightning_nc.values.sample import Decisions as Decisions
from lightning_nc.values.sample import FeatureSample as FeatureSample
from lightning_nc.values.sample import Tallies as Tallies
from lightning_nc.values.stage import STAGES as STAGES
from lightning_nc.values.stage import Stage as Stage
from lightning_nc.values.stage import stage_of as stage_of
from lightning_nc.values.statistics import ClassStatistics as ClassStatistics
