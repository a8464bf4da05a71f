"""Drawing leaves the rest of matplotlib alone."""

from support.drawings import picture, random_frame, run, stage, training

from lightning_nc.figures import (
    alignment,
    class_lengths,
    class_profile,
    collapse_animation,
    cosine_matrices,
    depth_map,
    depth_profile,
    loss_split,
    race,
    signal_to_noise,
    spectra,
    summary,
)
from lightning_nc.functional import ClassEvidence


def test_the_settings_of_matplotlib_are_left_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    statistics, classifier = training(10)
    class_profile(statistics, classifier)
    spectra(statistics)
    class_lengths(ClassEvidence.of(statistics, classifier))
    summary(run(2))
    for of_stage in (race, loss_split, signal_to_noise):
        of_stage(run(2), "val")
    for of_layers in (depth_profile, depth_map, alignment):
        of_layers(run(2), "val", ["a"])
    assert dict(matplotlib.rcParams) == before


def test_drawing_leaves_pyplot_alone():
    from matplotlib import pyplot

    given, statistics = stage()
    figures = [cosine_matrices(random_frame(4)), picture(given, statistics), spectra(statistics)]
    figures += [class_profile(statistics), summary(run(3)), depth_profile(run(3), "val", ["a"])]
    figures += [depth_map(run(3), "val", ["a"]), alignment(run(3), "val", ["a"])]
    figures += [of_stage(run(3), "val") for of_stage in (race, loss_split, signal_to_noise)]
    figures += [class_lengths(ClassEvidence.of(*training(10)))]
    collapse_animation([figure for figure, _ in figures[:1]])
    assert pyplot.get_fignums() == []
