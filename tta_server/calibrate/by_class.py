"""What the class that an image is read as says of its drift scores, and how well so few images tell it."""

from torch import Tensor


def by_class(scores: Tensor, predicted: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return what each class adds to the mean of each score, and the variance of that; both (K, S), float64.

    The means of classes are taken to vary, from class to class, as they do beyond what chance makes of so few images:
    the mean of a class with few is drawn to that of all, and a class with none has it, in doubt of all that variance.

    Source: one-way random effects; the variance between classes by moments (Searle, Casella & McCulloch, Variance
    Components, 1992, section 3.6), the means by the best linear prediction (Robinson, Statist. Sci. 1991).

    Args:
        scores: Of N images (N, S).
        predicted: The class that each is read as (N,).
        classes: K.
    """
    scores = scores.double()
    counts = predicted.bincount(minlength=classes).double()[:, None]
    apart = scores - scores.mean(0)
    means = _sums(apart, predicted, classes) / counts.clamp(min=1)
    groups, images = int((counts > 0).sum()), len(scores)
    if groups < 2 or images <= groups:
        return means.new_zeros(means.shape), means.new_zeros(means.shape)
    within = (apart - means[predicted]).square().sum(0) / (images - groups)
    usual = (images - float(counts.square().sum()) / images) / (groups - 1)  # images of a class, were all alike
    between = (((counts * means.square()).sum(0) / (groups - 1) - within) / usual).clamp(min=0)
    trusted = counts * between / (counts * between + within).clamp(min=1e-300)
    return trusted * means, between * (1 - trusted)


def _sums(values: Tensor, predicted: Tensor, classes: int) -> Tensor:
    return values.new_zeros(classes, values.shape[1]).index_add(0, predicted, values)
