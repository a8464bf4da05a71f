"""Drawing leaves the rest of matplotlib alone."""

from support.drawings import picture, random_frame, run, stage, training

from lightning_nc.figures import (
    alignment,
    class_profile,
    collapse_animation,
    cosine_matrices,
    depth_map,
    depth_profile,
    spectra,
    summary,
)


def test_the_settings_of_matplotlib_are_left_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    statistics, classifier = training(10)
    class_profile(statistics, classifier)
    spectra(statistics)
    summary(run(2))
    for of_layers in (depth_profile, depth_map, alignment):
        of_layers(run(2), "val", ["a"])
    assert dict(matplotlib.rcParams) == before


def test_drawing_leaves_pyplot_alone():
    from matplotlib import pyplot

    given, statistics = stage()
    figures = [cosine_matrices(random_frame(4)), picture(given, statistics), spectra(statistics)]
    figures += [class_profile(statistics), summary(run(3)), depth_profile(run(3), "val", ["a"])]
    figures += [depth_map(run(3), "val", ["a"]), alignment(run(3), "val", ["a"])]
    collapse_animation([figure for figure, _ in figures[:1]])
    assert pyplot.get_fignums() == []
