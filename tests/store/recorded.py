"""The columns that the recorder writes for a small and a large network, without torch.

An MLP of L linear layers with rectifiers between them, the last one without a bias: 10 L - 4 sites and about
4.2 (small) or 3.4 (large) columns a site; `test_matrix.py` holds them against a recorded training.
"""

from nanscope.run import Column, Header
from nanscope.values import Kind, Site

SMALL, LARGE = 26, 376  # sites; 109 and 1,264 columns
CLASSES = 10
SPARE = 8


def layers(sites: int) -> int:
    """Linear layers of the network with so many sites."""
    return (sites + 4) // 10


def recorded_header(sites: int) -> Header:
    """What the recorder would put before the first row."""
    count = layers(sites)
    modules = [str(i) for i in range(2 * count - 1)]
    parameters = [f"{2 * i}.{name}" for i in range(count) for name in ("weight", "bias")][:-1]
    places = [Site("", Kind.INPUT)]
    for kind, names in (
        (Kind.OUTPUT, modules),
        (Kind.GRAD_OUTPUT, modules),
        (Kind.WEIGHT, parameters),
        (Kind.GRAD, parameters),
        (Kind.UPDATE, parameters),
    ):
        places += [Site(name, kind) for name in names]
    peaked = [site for site in places if site.kind in (Kind.OUTPUT, Kind.WEIGHT)]
    rectified = [site for site in places if site.kind is Kind.OUTPUT and int(site.name) % 2]
    counted = [site for site in places if site.kind is not Kind.UPDATE]
    stats = {"l2": places, "nan_count": counted, "inf_count": counted, "abs_max": peaked}
    stats["ratio"] = [site for site in places if site.kind is Kind.UPDATE]
    stats["dead_fraction"] = rectified
    columns = [Column(site, stat) for stat, of in stats.items() for site in of]
    scalars = ["loss", "lr", "samples", "logits_abs_max", "logits_spread"]
    scalars += ["logits_margin", "predicted_nan"]
    scalars += [f"predicted_{c}" for c in range(CLASSES)] + [""] * SPARE
    return Header((*columns, *(Column(None, name) for name in scalars)))
